"""What a proxy says in a service's name: HTTP statuses instead of gRPC's, and CANCELLED."""

from __future__ import annotations

from dataclasses import replace

from tests.scenarios.clients import LIMIT, Traffic
from tests.scenarios.outages import SPARSE
from tests.scenarios.play import Play, Scenario


def http_status(play: Play, status: int, opens: bool, after: float = 100, traffic: Traffic = SPARSE) -> None:
    """An nginx replies with HTTP {status} to each call for 60 s instead of asking the server. Should a breaker open: {opens}."""
    nginx = play.nginx(play.server())
    play.start(nginx.target, traffic)
    play.sleep(10)
    with play.outage(opens=opens):
        nginx.say(status)
        play.sleep(60)
        nginx.say(None)
    play.sleep(after)


def http_status_to_probes(play: Play, status: int) -> None:
    """The server behind nginx dies (HTTP 502 for 20 s), and then nginx replies with HTTP {status} for 160 s: an open
    breaker's probes see that, and must not take it for health.
    """
    server = play.server()
    nginx = play.nginx(server)
    play.start(nginx.target, SPARSE)
    play.sleep(10)
    with play.outage():
        server.kill()
        play.sleep(20)
        nginx.say(status)
        play.sleep(160)
        server.restart()
        nginx.say(None)
    play.sleep(100)


def cancelled(play: Play, first: str, after: float = 100, traffic: Traffic = SPARSE) -> None:
    """For 180 s the server's side ends each call with CANCELLED, which no client asked for; the first 20 s: {first}."""
    now = ["ok"]
    play.start(play.server().target, replace(traffic, script=lambda _: now[0]))
    play.sleep(10)
    with play.outage():
        now[0] = f"error {first} going away"
        play.sleep(20)
        now[0] = "error CANCELLED going away"
        play.sleep(160)
        now[0] = "ok"
    play.sleep(after)


def too_large(play: Play) -> None:
    """Of each 60 requests through nginx, which allows 1 MB, five in a row have 2 MB (HTTP 413); the small ones are
    served. One caller.
    """
    nginx = play.nginx(play.server())
    traffic = Traffic(every=1.0, timeout=30, size=lambda number: 2 * LIMIT if 10 <= number % 60 < 15 else 100)
    play.start(nginx.target, traffic)
    play.sleep(180)


SCENARIOS = [
    *(
        Scenario(
            f"HTTP {it}", http_status, 10, nginx=True, arguments={"status": it, "opens": it in {404, 502, 503, 504}}
        )
        for it in (401, 403, 404, 502, 503, 504)
    ),
    *(
        Scenario(f"HTTP {it} to probes", http_status_to_probes, 15, nginx=True, arguments={"status": it})
        for it in (401, 403, 404, 503)
    ),
    Scenario("CANCELLED by the server", cancelled, 15, arguments={"first": "CANCELLED"}),
    Scenario("CANCELLED by the server, to probes", cancelled, 15, arguments={"first": "UNAVAILABLE"}),
    Scenario("five requests of 2 MB (HTTP 413)", too_large, 10, nginx=True),
]
