"""What applications do to their calls, over services that are well and one that hangs."""

from __future__ import annotations

from tests.scenarios.clients import Traffic
from tests.scenarios.healthy_days import BOTH, often
from tests.scenarios.play import Play, Scenario


def first_message_only(play: Play, percent: int) -> None:
    """The application reads one message of each stream and drops the stream, as `doc.get()` of some clients does;
    {percent} % of the calls fail, at random.
    """
    script = often(percent / 100, "error UNAVAILABLE try again", "messages 20;hang")
    play.start(play.server().target, Traffic("first message", callers=4, every=1.0, script=script, timeout=30))
    play.sleep(150)


def impatient(play: Play, outage: float, after: float) -> None:
    """The application gives up after 3 s (`asyncio.wait_for`, `future.result(timeout=…)` and `cancel()`) calls without a
    deadline; the server hangs (SIGSTOP) for {outage} s.
    """
    server = play.server()
    play.start(server.target, Traffic("impatient", callers=8, every=1.0, patience=3.0))
    play.sleep(10)
    with play.outage():
        server.pause()
        play.sleep(outage)
        server.resume()
    play.sleep(after)


SCENARIOS = [
    Scenario("first message only, all served", first_message_only, 10, BOTH, arguments={"percent": 0}),
    Scenario("first message only, 20 % fail", first_message_only, 10, BOTH, arguments={"percent": 20}),
    Scenario("application time-outs, hung for 30 s", impatient, 4, BOTH, arguments={"outage": 30, "after": 100}),
]
