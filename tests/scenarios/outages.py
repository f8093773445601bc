"""Services that are not well: dead, hung, slow, restarted, one of several."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from tests.scenarios.clients import Traffic
from tests.scenarios.healthy_days import BOTH, QUIET, ROUND_ROBIN, SILENT_WATCHES, WATCHES, often
from tests.scenarios.play import Play, Scenario

CALLS = Traffic(callers=8, every=1.0, timeout=15.0)
SPARSE = replace(CALLS, every=2.0)
"""Where the clock runs faster."""
HURRIED = replace(CALLS, timeout=3.0)
"""Where the deadline matters; three quarters of a real second at a speed of 4."""

OUTLIERS = (
    "grpc.service_config",
    json.dumps(
        {
            "loadBalancingConfig": [
                {
                    "outlier_detection_experimental": {
                        "interval": "0.5s",
                        "baseEjectionTime": "30s",
                        "maxEjectionPercent": 50,
                        "failurePercentageEjection": {"threshold": 50, "minimumHosts": 3, "requestVolume": 5},
                        "childPolicy": [{"round_robin": {}}],
                    }
                }
            ]
        }
    ),
)
"""grpcio's own ejection of bad backends: half of a backend's calls failed in half a second."""


def dead(play: Play, outage: float, after: float, traffic: Traffic = CALLS, takes: float = 0.0) -> None:
    """The server is killed (SIGKILL), nothing listens for {outage} s, and it is started again."""
    server = play.server()
    if takes:
        traffic = replace(traffic, script=f"wait {play.real(takes)}", timeout=3 * takes)
    play.start(server.target, traffic)
    play.sleep(10)
    with play.outage():
        server.kill()
        play.sleep(outage)
        server.restart()
    play.sleep(after)


def cut_streams(play: Play, outage: float, after: float) -> None:
    """For {outage} s the server answers each stream with one message and then ends it with UNAVAILABLE; 8 watches."""
    script = [QUIET]
    balancer = play.load_balancer(play.server())
    play.start(balancer.target, Traffic("watch", callers=8, every=2.0, script=lambda _: script[0]))
    play.sleep(10)
    with play.outage():
        script[0] = f"messages 1;wait {play.real(1.0)};error UNAVAILABLE sick"
        balancer.cut()
        play.sleep(outage)
        script[0] = QUIET
    play.sleep(after)


def hung(play: Play, outage: float, after: float, traffic: Traffic = HURRIED) -> None:
    """The server is stopped (SIGSTOP) for {outage} s: every call of it runs into its deadline."""
    server = play.server()
    play.start(server.target, traffic)
    play.sleep(10)
    with play.outage():
        server.pause()
        play.sleep(outage)
        server.resume()
    play.sleep(after)


def slow(play: Play, percent: int, outage: float, after: float) -> None:
    """For {outage} s the server replies to {percent} % of its calls only after their deadline of 3 s, at random."""
    now = ["ok"]
    late = often(percent / 100, f"wait {play.real(20)}")

    def script(rng: random.Random) -> str:
        return late(rng) if now[0] == "slow" else now[0]

    play.start(play.server().target, replace(HURRIED, script=script))
    play.sleep(10)
    with play.outage():
        now[0] = "slow"
        play.sleep(outage)
        now[0] = "ok"
    play.sleep(after)


def restarted(play: Play, before: float, after: float, traffic: Traffic = CALLS) -> None:
    """The only server is killed and started again at once; how long it is away is how long a process takes to start. An
    opening is neither asked for nor wrong.
    """
    server = play.server()
    play.start(server.target, traffic)
    play.sleep(before)
    with play.outage(opens=False):
        server.kill()
        server.restart()
    play.sleep(after)


def bad_backend(play: Play, bad: str, detected: bool) -> None:
    """One of three backends behind `round_robin` {bad}, the others are well; with `outlier_detection` in the channel's
    service config: {detected}. A breaker that opens refuses what two of three would have served, so that is wrong.
    """
    fails = bad == "fails every call"
    backends = [play.server(), play.server(), play.server(script="error UNAVAILABLE sick" if fails else "")]
    target = "ipv4:" + ",".join(it.target for it in backends)
    play.start(target, replace(CALLS, timeout=5.0), [OUTLIERS if detected else ROUND_ROBIN])
    play.sleep(10)
    if bad == "hangs":
        backends[2].pause()
    elif bad == "is dead":
        backends[2].kill()
    play.sleep(120)


SCENARIOS = [
    Scenario("dead for 30 s", dead, 5, BOTH, arguments={"outage": 30, "after": 100}),
    Scenario("dead for 5 minutes", dead, 15, BOTH, arguments={"outage": 300, "after": 200, "traffic": SPARSE}),
    Scenario(
        "dead for 30 s under 40 watches", dead, 5, BOTH, arguments={"outage": 30, "after": 60, "traffic": WATCHES}
    ),
    Scenario(
        "dead for 30 s under 40 silent watches",
        dead,
        5,
        BOTH,
        arguments={"outage": 30, "after": 120, "traffic": SILENT_WATCHES},
    ),
    Scenario(
        "dead for 30 s, calls take 45 s",
        dead,
        10,
        BOTH,
        arguments={"outage": 30, "after": 300, "traffic": replace(CALLS, callers=20), "takes": 45.0},
    ),
    *(
        Scenario(
            f"dead for 30 s under {what}",
            dead,
            5,
            ("asyncio",),
            arguments={"outage": 30, "after": 100, "traffic": replace(CALLS, kind=kind)},
        )
        for what, kind in (("pages of five calls", "page"), ("pages of five methods", "page of five"))
    ),
    Scenario("each watch is cut after a second", cut_streams, 3, BOTH, arguments={"outage": 60, "after": 30}),
    Scenario("hung for 30 s", hung, 4, BOTH, arguments={"outage": 30, "after": 100}),
    Scenario("all calls slow", slow, 4, arguments={"percent": 100, "outage": 30, "after": 100}),
    Scenario("two thirds of the calls slow", slow, 4, arguments={"percent": 67, "outage": 30, "after": 100}),
    Scenario("restarted at once", restarted, 5, BOTH, arguments={"before": 10, "after": 100}),
    Scenario(
        "restarted under 40 silent watches",
        restarted,
        5,
        BOTH,
        arguments={"before": 60, "after": 100, "traffic": SILENT_WATCHES},
    ),
    *(
        Scenario(
            f"one of three {bad}{', outlier detection' if detected else ''}",
            bad_backend,
            10,
            arguments={"bad": bad, "detected": detected},
        )
        for bad in ("fails every call", "hangs", "is dead")
        for detected in (False, True)
    ),
]
