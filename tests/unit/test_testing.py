"""`grpc_breaker.testing`: what users' own tests are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from grpc_breaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, State
from grpc_breaker.testing import EventRecorder, FakeClock, hold_open


def test_fake_clock_moves_when_advanced() -> None:
    """The fake clock stands still until it is advanced."""
    clock = FakeClock(5.0)
    clock.advance(2.5)
    assert (clock(), clock()) == (7.5, 7.5)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_fake_clock_runs_forward(seconds: float) -> None:
    """It cannot run backwards or nowhere."""
    with pytest.raises(ValueError, match=r"FakeClock.advance takes seconds, 0 or more"):
        FakeClock().advance(seconds)


@pytest.mark.parametrize("seconds", ["5", None, True])
def test_clock_advances_by_numbers(seconds: Any) -> None:
    """What is no number of seconds is named as such."""
    with pytest.raises(TypeError, match=r"FakeClock.advance takes seconds, got"):
        FakeClock().advance(seconds)


@pytest.mark.parametrize(
    ("now", "error"), [("5", TypeError), (True, TypeError), (math.nan, ValueError), (math.inf, ValueError)]
)
def test_fake_clock_begins_at_a_number(now: Any, error: type[Exception]) -> None:
    """It begins at a finite number of seconds, or not at all."""
    with pytest.raises(error, match="FakeClock takes seconds"):
        FakeClock(now)


@pytest.mark.parametrize("command", ["disable", "force_open"])
def test_hold_open_gives_back_what_an_operator_did(command: str) -> None:
    """A breaker that an operator disabled or forced open is so again after the block."""
    breaker = CircuitBreaker("test")
    getattr(breaker, command)()
    before = breaker.state
    with hold_open(breaker):
        assert breaker.state is State.FORCED_OPEN
    assert breaker.state is before


def test_hold_open_refuses_until_the_end() -> None:
    """A breaker held open refuses inside the block and is closed after it, also when the block raises."""
    breakers = BreakerRegistry()
    with pytest.raises(LookupError), hold_open(breakers, "pkg.S/M") as breaker:
        with pytest.raises(CircuitOpenError):
            breaker.admit()
        raise LookupError
    assert breakers["pkg.S/M"].state is State.CLOSED
    with hold_open(breaker):
        assert breaker.state is State.FORCED_OPEN


def test_hold_open_wants_to_know_which() -> None:
    """A registry needs a method, a breaker has none."""
    with pytest.raises(TypeError, match="needs to know which breaker"), hold_open(BreakerRegistry()):
        pass
    with pytest.raises(TypeError, match="takes no method"), hold_open(CircuitBreaker("test"), "pkg.S/M"):
        pass


def test_recorder_keeps_the_order(fake_clock: FakeClock) -> None:
    """The recorder has every change and refusal, until it is stopped."""
    breaker = CircuitBreaker("test", clock=fake_clock)
    events = EventRecorder(breaker)
    breaker.force_open()
    breaker.try_admit()
    breaker.reset()
    events.stop()
    breaker.force_open()
    assert events.states == [State.FORCED_OPEN, State.CLOSED]
    assert len(events.rejections) == 1


def test_fixture_holds_open_until_the_test_ends(
    request: pytest.FixtureRequest, hold_breaker_open: Callable[..., Any]
) -> None:
    """The fixture `hold_breaker_open` holds a breaker open for the rest of a test."""
    breaker = hold_breaker_open(BreakerRegistry(), "pkg.S/M")
    assert breaker.state is State.FORCED_OPEN
    request.addfinalizer(lambda: None)


def test_fixtures_are_finished(pytester: pytest.Pytester) -> None:
    """After the test the breaker is closed again."""
    pytester.makepyfile(
        """
        from grpc_breaker import CircuitBreaker
        breaker = CircuitBreaker("test")

        def test_held(hold_breaker_open):
            assert hold_breaker_open(breaker).state == "forced_open"

        def test_closed_again(fake_clock):
            assert breaker.state == "closed"
            assert fake_clock() == 0.0
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_plugin_loads_nothing_of_the_package(pytester: pytest.Pytester) -> None:
    """A test run that has the plugin and uses no fixture of it has loaded neither the package nor gRPC."""
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("grpc_breaker")
            assert not {"grpc", "grpc_breaker", "opentelemetry"} & sys.modules.keys()
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


pytest_plugins = ["pytester"]


def test_holds_nest() -> None:
    """A breaker that was forced open before a hold is still so after it."""
    breaker = CircuitBreaker("held")
    with hold_open(breaker):
        with hold_open(breaker):
            pass
        assert breaker.state is State.FORCED_OPEN
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("nothing", [None, "pkg.S/M"])
def test_sources_are_checked(nothing: Any) -> None:
    """Something else than a registry or a breaker is an error that says so."""
    with pytest.raises(TypeError, match="takes a BreakerRegistry or a CircuitBreaker, got"):
        EventRecorder(nothing)
    with pytest.raises(TypeError, match="takes a BreakerRegistry or a CircuitBreaker, got"), hold_open(nothing):
        pass
