"""What happens every day to services that are well: redeploys, ageing connections, time-outs of what lies between.

No outage in any of them: a breaker that opens here is wrong.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

from tests.scenarios.clients import Script, Traffic
from tests.scenarios.play import Play, Scenario
from tests.support.server import ServerProcess

BOTH = ("threads", "asyncio")
ROUND_ROBIN = ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}))
QUIET = "messages 1;hang"
"""A stream that is answered at once and then says nothing."""
SILENT = "hang"
"""A stream that says nothing: a server of Python sends no headers before its first message."""


WATCHES = Traffic("watch", callers=40, every=2.0, script=QUIET)
SILENT_WATCHES = Traffic("silent watch", callers=40, every=2.0, script=SILENT)


def often(share: float, bad: str, good: str = "ok") -> Script:
    """Calls of which this share, at random, are bad ones."""

    def script(rng: random.Random) -> str:
        return bad if rng.random() < share else good

    return script


def watch_cut_daily(play: Play, days: int = 8, day: float = 180) -> None:
    """One watch (stream) is cut once a day by a redeploy and answered at once when it comes back; {days} days. A day is
    shortened to {day} s, which is longer than every time of the policies.
    """
    cuts = play.load_balancer(play.server())
    play.start(cuts.target, Traffic("watch", every=2.0, script=QUIET))
    for _ in range(days):
        play.sleep(day)
        cuts.cut()
    play.sleep(day)


def connections_age(play: Play, ages: int = 6, watches: int = 6) -> None:
    """`max_connection_age` of 120 s, with 10 s of grace, ends the connection under {watches} watches, {ages} times."""
    age, grace = (int(1000 * play.real(it)) for it in (120, 10))
    server = play.server(options=[("grpc.max_connection_age_ms", age), ("grpc.max_connection_age_grace_ms", grace)])
    play.start(server.target, Traffic("watch", callers=watches, every=2.0, script=QUIET))
    play.sleep(130 * ages + 60)


def idle_connections(play: Play, times: int = 6) -> None:
    """A TCP load balancer resets connections that were silent for 60 s, {times} times; six watches share one."""
    balancer = play.load_balancer(play.server(), idle=60)
    play.start(balancer.target, Traffic("watch", callers=6, every=2.0, script=QUIET))
    play.sleep(62 * times + 30)


def idle_streams(play: Play, times: int = 6, watches: int = 6) -> None:
    """An nginx ends each stream that was silent for 60 s (`grpc_read_timeout`), {times} times each; {watches} watches."""
    nginx = play.nginx(play.server(), f"grpc_read_timeout {int(1000 * play.real(60))}ms;")
    play.start(nginx.target, Traffic("watch", callers=watches, every=2.0, script=QUIET))
    play.sleep(62 * times + 30)


def watches_renewed(play: Play, times: int, watches: int, deadline: float) -> None:
    """{watches} watches with a deadline of {deadline:g} s each, which begin again when it has passed, {times} times."""
    traffic = Traffic("watch", callers=watches, every=2.0, script=QUIET, timeout=deadline)
    play.start(play.server().target, traffic)
    play.sleep((deadline + 2) * times + 0.5 * deadline)


def connection_dies(play: Play, deaths: int = 3) -> None:
    """The one connection is reset under the calls of 8 callers, most of them in flight, {deaths} times with 30 s between; the server takes the next
    connection at once.
    """
    balancer = play.load_balancer(play.server())
    script = f"wait {play.real(1.0)}"
    play.start(balancer.target, Traffic(callers=8, every=1.05, script=script, timeout=20))
    for _ in range(deaths):
        play.sleep(30)
        balancer.cut()
    play.sleep(30)


def rolling_restart(play: Play, policy: str, ending: str) -> None:
    """Three backends behind `{policy}` are {ending} and started again, one after the other; 12 callers, each call takes
    0.2 s. Killed: SIGKILL, so that calls in flight fail; drained: GOAWAY, and 30 s for the calls in flight.
    """
    backends = [play.server() for _ in range(3)]
    target = "ipv4:" + ",".join(it.target for it in backends)
    traffic = Traffic(callers=12, every=0.4, script=f"wait {play.real(0.2)}", timeout=60)
    play.start(target, traffic, [ROUND_ROBIN] if policy == "round_robin" else [])
    _restart_each(play, backends, ending, grace=30)


def restart_under_watches(play: Play, watches: int, silent: bool, ending: str) -> None:
    """Three backends behind `round_robin`, under {watches} watches, are {ending} and started again, one after the other, 10 s
    between. Killed: SIGKILL; drained: GOAWAY, and 2 s for the streams. Watches that are never answered: {silent}.
    """
    traffic = replace(SILENT_WATCHES if silent else WATCHES, callers=watches)
    backends = [play.server() for _ in range(3)]
    target = "ipv4:" + ",".join(it.target for it in backends)
    play.start(target, traffic, [ROUND_ROBIN])
    play.sleep(60)
    _restart_each(play, backends, ending, grace=2)


def _restart_each(play: Play, backends: Sequence[ServerProcess], ending: str, grace: float) -> None:
    """End the backends one after the other, by SIGKILL or with `grace` seconds for their calls, and start them again."""
    for backend in backends:
        play.sleep(10)
        if ending == "drained":
            backend.drain(play.real(grace))
        else:
            backend.kill()
        backend.restart()
    play.sleep(30)


def goaways(play: Play, requests: int, every: float, each: int = 60) -> None:
    """An nginx sends GOAWAY after each {requests} requests of a connection (`keepalive_requests {requests}`); 32 callers
    make a call every {every} s each, 0 for no pause. grpcio sends what came after the last request again, once.
    """
    nginx = play.nginx(play.server(), f"keepalive_requests {requests};")
    play.start(nginx.target, Traffic(callers=32, every=every, timeout=30, each=each))
    play.wait()


def some_errors(play: Play, percent: int) -> None:
    """A server that serves {percent} % of its calls UNAVAILABLE, at random, and the others well."""
    script = often(percent / 100, "error UNAVAILABLE try again")
    play.start(play.server().target, Traffic(callers=8, every=1.0, script=script, timeout=20))
    play.sleep(240)


def quota(play: Play) -> None:
    """One of several tenants, who makes 60 % of the calls, has used up its quota: its calls get RESOURCE_EXHAUSTED, those
    of the others are served.
    """
    script = often(0.6, "error RESOURCE_EXHAUSTED quota of tenant 7")
    play.start(play.server().target, Traffic(callers=8, every=1.0, script=script, timeout=20))
    play.sleep(120)


SCENARIOS = [
    Scenario("a watch is cut once a day", watch_cut_daily, 60, BOTH, arguments={"days": 8, "day": 180}),
    Scenario("`max_connection_age`", connections_age, 30, BOTH, arguments={"ages": 6, "watches": 6}),
    Scenario("idle time-out of connections", idle_connections, 20, BOTH, arguments={"times": 6}),
    Scenario("idle time-out of streams", idle_streams, 20, BOTH, nginx=True, arguments={"times": 6, "watches": 6}),
    Scenario("40 watches, `max_connection_age`", connections_age, 30, BOTH, arguments={"ages": 3, "watches": 40}),
    Scenario("40 watches, idle time-out", idle_streams, 20, BOTH, nginx=True, arguments={"times": 3, "watches": 40}),
    Scenario("40 watches, renewed", watches_renewed, 20, BOTH, arguments={"times": 3, "watches": 40, "deadline": 60}),
    *(
        Scenario(
            f"40 {'silent ' if silent else ''}watches, backends {ending}",
            restart_under_watches,
            5,
            BOTH,
            arguments={"watches": 40, "silent": silent, "ending": ending},
        )
        for silent in (False, True)
        for ending in ("killed", "drained")
    ),
    Scenario("a connection dies under 8 calls", connection_dies, 8, BOTH, arguments={"deaths": 3}),
    *(
        Scenario(
            f"backends {ending} and restarted, {policy}",
            rolling_restart,
            5,
            arguments={"policy": policy, "ending": ending},
        )
        for ending in ("killed", "drained")
        for policy in ("pick_first", "round_robin")
    ),
    Scenario("GOAWAY after 10 requests", goaways, 1, BOTH, nginx=True, arguments={"requests": 10, "every": 0}),
    Scenario("GOAWAY after 10, some pause", goaways, 1, nginx=True, arguments={"requests": 10, "every": 0.1}),
    Scenario("GOAWAY after 30 requests", goaways, 1, nginx=True, arguments={"requests": 30, "every": 0}),
    Scenario("5 % sporadic errors", some_errors, 10, arguments={"percent": 5}),
    Scenario("20 % sporadic errors", some_errors, 10, arguments={"percent": 20}),
    Scenario("quota of one tenant", quota, 10),
]
