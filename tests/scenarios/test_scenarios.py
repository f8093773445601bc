"""Scenarios that are short, as tests: bare and grpc_breaker with the default policy, side by side.

They assert what holds on a machine of any pace: whether a breaker opened, and closed again; not how fast, nor how often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.scenarios.applications import first_message_only
from tests.scenarios.clients import Traffic
from tests.scenarios.day import THEMES
from tests.scenarios.healthy_days import (
    connection_dies,
    restart_under_watches,
    rolling_restart,
    watch_cut_daily,
    watches_renewed,
)
from tests.scenarios.outages import dead, hung
from tests.scenarios.play import Result, Scenario, play
from tests.scenarios.proxies import cancelled, http_status, too_large
from tests.support.programs import required

SPEED = 30
PATIENT = Traffic(callers=4, every=4.0, timeout=15.0)
"""Half a real second for each call: what is well replies in time, however busy the machine is."""
LONG = 160
"""Long enough for two open periods."""


@pytest.fixture
def nginx() -> None:
    """Nginx is installed; where it is not, skip the test, but not in `.ci/run`."""
    required("nginx", "nginx-light")


def bare_and_guarded(scenario: Scenario) -> Iterator[tuple[Result, Result]]:
    """What came of a play, in each world."""
    results = play(scenario, 1, ("bare", "grpc_breaker"))
    for world in scenario.worlds:
        yield results[world, "bare"], results[world, "grpc_breaker"]


def assert_found_and_left_behind(bare: Result, guarded: Result) -> None:
    """The breaker opened in the outage, kept calls from the server, and closed after it."""
    assert bare.reached
    assert guarded.reached is not None
    assert (guarded.missed, guarded.closed_unwell) == (0, 0)
    assert guarded.reached < bare.reached
    assert max(guarded.to_recover) < math.inf


def test_a_dead_server_is_found_and_found_again() -> None:
    """A server that was killed opens the breaker, in threads and asyncio, and is called again once it is back."""
    arguments = {"outage": 40, "after": LONG, "traffic": PATIENT}
    scenario = Scenario("dead", dead, SPEED, ("threads", "asyncio"), arguments=arguments)
    for bare, guarded in bare_and_guarded(scenario):
        assert_found_and_left_behind(bare, guarded)


def test_a_hung_server_is_found_and_found_again() -> None:
    """A server that was stopped opens the breaker, in threads and asyncio, and is called again once it continues."""
    arguments = {"outage": 90, "after": LONG, "traffic": PATIENT}
    scenario = Scenario("hung", hung, SPEED, ("threads", "asyncio"), arguments=arguments)
    for bare, guarded in bare_and_guarded(scenario):
        assert_found_and_left_behind(bare, guarded)


@pytest.mark.usefixtures("nginx")
def test_a_proxy_without_a_backend_is_an_outage() -> None:
    """HTTP 503 of a proxy opens the breaker, and it closes when the proxy asks the server again."""
    arguments = {"status": 503, "opens": True, "after": LONG, "traffic": PATIENT}
    for bare, guarded in bare_and_guarded(Scenario("503", http_status, SPEED, nginx=True, arguments=arguments)):
        assert_found_and_left_behind(bare, guarded)


@pytest.mark.parametrize("policy", ["pick_first", "round_robin"])
def test_a_restart_that_drains_costs_nothing(policy: str) -> None:
    """Backends that drain are restarted one after the other: the breaker stays closed and refuses nothing."""
    arguments = {"policy": policy, "ending": "drained"}
    for _, guarded in bare_and_guarded(Scenario("drained", rolling_restart, 10, arguments=arguments)):
        assert (guarded.openings, guarded.refused) == (0, 0)


def test_dropped_streams_of_a_server_that_is_well_open_nothing() -> None:
    """An application that drops each stream after its first message, in threads and asyncio: the breaker stays closed."""
    scenario = Scenario("dropped", first_message_only, SPEED, ("threads", "asyncio"), arguments={"percent": 0})
    for _, guarded in bare_and_guarded(scenario):
        assert guarded.calls
        assert (guarded.openings, guarded.refused) == (0, 0)


def test_a_watch_that_is_cut_and_answered_opens_nothing() -> None:
    """A watch that is cut six times and answered each time, in threads and asyncio: the breaker stays closed."""
    arguments = {"days": 6, "day": 60}
    scenario = Scenario("watch", watch_cut_daily, SPEED, ("threads", "asyncio"), arguments=arguments)
    for _, guarded in bare_and_guarded(scenario):
        assert guarded.calls >= 6
        assert (guarded.openings, guarded.refused) == (0, 0)


@pytest.mark.parametrize("silent", [False, True])
def test_forty_watches_under_a_deploy_open_nothing(silent: bool) -> None:
    """Backends are killed one after the other under forty watches, in threads and asyncio: the breaker stays closed."""
    arguments = {"watches": 40, "silent": silent, "ending": "killed"}
    scenario = Scenario("deploy", restart_under_watches, 5, ("threads", "asyncio"), arguments=arguments)
    for _, guarded in bare_and_guarded(scenario):
        assert (guarded.openings, guarded.refused) == (0, 0)


def test_watches_that_are_renewed_by_their_deadline_open_nothing() -> None:
    """Forty watches whose deadlines pass, in threads and asyncio: the breaker stays closed."""
    arguments = {"times": 2, "watches": 40, "deadline": 60}
    scenario = Scenario("renewed", watches_renewed, 10, ("threads", "asyncio"), arguments=arguments)
    for _, guarded in bare_and_guarded(scenario):
        assert guarded.calls >= 40
        assert (guarded.openings, guarded.refused) == (0, 0)


def test_a_connection_that_dies_opens_nothing() -> None:
    """One connection is reset under eight calls, in threads and asyncio: the breaker stays closed."""
    scenario = Scenario("reset", connection_dies, 10, ("threads", "asyncio"), arguments={"deaths": 1})
    for bare, guarded in bare_and_guarded(scenario):
        assert bare.lost
        assert (guarded.openings, guarded.refused) == (0, 0)


@pytest.mark.usefixtures("nginx")
def test_a_proxy_without_a_route_is_an_outage() -> None:
    """HTTP 404 of a proxy, which gRPC shows as UNIMPLEMENTED, opens the breaker, and does not close it."""
    arguments = {"status": 404, "opens": True, "after": LONG, "traffic": PATIENT}
    for bare, guarded in bare_and_guarded(Scenario("404", http_status, SPEED, nginx=True, arguments=arguments)):
        assert_found_and_left_behind(bare, guarded)


@pytest.mark.usefixtures("nginx")
def test_what_a_proxy_says_of_one_request_opens_nothing() -> None:
    """HTTP 403 and 413 of a proxy are about the request: the breaker stays closed."""
    arguments = {"status": 403, "opens": False, "after": 10, "traffic": PATIENT}
    for _, guarded in bare_and_guarded(Scenario("403", http_status, SPEED, nginx=True, arguments=arguments)):
        assert (guarded.openings, guarded.refused) == (0, 0)
    for _, guarded in bare_and_guarded(Scenario("413", too_large, SPEED, nginx=True)):
        assert guarded.lost
        assert (guarded.openings, guarded.refused) == (0, 0)


@pytest.mark.parametrize("first", ["CANCELLED", "UNAVAILABLE"])
def test_cancelled_by_the_server_is_an_outage(first: str) -> None:
    """CANCELLED that no client asked for opens the breaker, and lets no calls through while it is half-open."""
    arguments = {"first": first, "after": LONG, "traffic": replace(PATIENT, timeout=60)}
    for bare, guarded in bare_and_guarded(Scenario("cancelled", cancelled, SPEED, arguments=arguments)):
        assert_found_and_left_behind(bare, guarded)


@pytest.mark.parametrize("scenario", [it for scenarios in THEMES.values() for it in scenarios], ids=lambda it: it.name)
def test_each_scenario_says_what_happens(scenario: Scenario) -> None:
    """The sentence of each scenario of `make day` is complete: the page is written after an hour of plays."""
    assert "{" not in scenario.sentence
