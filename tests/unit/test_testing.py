"""`grpc_breaker.testing`: what users' own tests are given."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    CircuitOpenError,
    State,
)
from grpc_breaker.testing import EventRecorder, FakeClock, hold_open, refusal


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


def test_hold_open_with_a_time(fake_clock: FakeClock) -> None:
    """A breaker that is held open for a time is open, says so, and probes after it; its policy comes back."""
    policy = BreakerPolicy(failure_rate=0.9, reset_timeout=7)
    breakers = BreakerRegistry(default=policy, clock=fake_clock)
    with hold_open(breakers, "pkg.S/M", retry_after=30) as breaker:
        fake_clock.advance(10)
        with pytest.raises(CircuitOpenError) as refused:
            breaker.admit()
        assert (refused.value.state, refused.value.retry_after) == (State.OPEN, 20)
        fake_clock.advance(20)
        assert breaker.admit().is_probe
    assert (breaker.state, breaker.policy, breaker.snapshot()["window"]["calls"]) == (State.CLOSED, policy, 0)


@pytest.mark.parametrize("command", ["disable", "force_open"])
def test_hold_open_with_a_time_gives_back_what_an_operator_did(command: str) -> None:
    """Also with a time a breaker that an operator disabled or forced open is so again after the block."""
    breaker = CircuitBreaker("test")
    getattr(breaker, command)()
    before = breaker.state
    with hold_open(breaker, retry_after=1):
        assert breaker.state is State.OPEN
    assert breaker.state is before


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (False, TypeError),
        ("", TypeError),
        ("5", TypeError),
    ],
)
def test_times_are_checked(seconds: Any, error: type[Exception]) -> None:
    """What is no time to wait is named as such; a refusal may say 0, and a breaker is as it was."""
    breaker = CircuitBreaker("test")
    allowed = "hold_open retry_after takes seconds from 0.000001 to 1e9, or None, got "
    with pytest.raises(error, match=re.escape(allowed)), hold_open(breaker, retry_after=seconds):
        pass
    assert breaker.state is State.CLOSED
    if seconds != 0 or isinstance(seconds, bool):
        allowed = "refusal retry_after takes seconds from 0.000001 to 1e9, 0 or None, got "
        with pytest.raises(error, match=re.escape(allowed)):
            refusal("pkg.S/M", retry_after=seconds)


@pytest.mark.parametrize("command", ["force_open", "disable"])
def test_holding_open_an_unused_name_is_no_mistake(command: str, caplog: pytest.LogCaptureFixture) -> None:
    """Holding open what no call has used logs nothing, because in a test none has; an operator's command does."""
    with hold_open(BreakerRegistry(), "pkg.S/M"):
        pass
    with hold_open(BreakerRegistry(), "pkg.S/M", retry_after=1):
        pass
    assert not caplog.records
    breaker = BreakerRegistry()["pkg.S/M"]
    getattr(breaker, command)()
    assert [record.getMessage() for record in caplog.records] == [
        f"circuit breaker pkg.S/M: {breaker.state}, but no call has used this name yet"
    ]
    with hold_open(breaker):
        pass
    assert len(caplog.records) == 1


def test_fixture_holds_open_for_a_time(hold_breaker_open: Callable[..., Any]) -> None:
    """The fixture takes the time, too."""
    assert 29 < hold_breaker_open(CircuitBreaker("test"), retry_after=30).retry_after <= 30


@pytest.mark.parametrize(
    ("retry_after", "state", "words"),
    [
        (2.5, State.OPEN, "circuit breaker open for pkg.S/M; next probe in 2.5 s"),
        (0, State.HALF_OPEN, "circuit breaker half_open for pkg.S/M; 1 probe in flight"),
        (None, State.FORCED_OPEN, "circuit breaker forced_open for pkg.S/M; until an operator resets it"),
    ],
)
@pytest.mark.parametrize("api", ["grpc", "grpc.aio", "plain"])
def test_refusal_for_a_mock(api: Any, retry_after: float | None, state: State, words: str) -> None:
    """A refusal made for a mock is the one of its API, and says what a breaker's would."""
    made = refusal("pkg.S/M", retry_after=retry_after, api=api)
    assert (made.state, made.retry_after, made.breaker, made.details()) == (state, retry_after, "pkg.S/M", words)
    assert made.method == ("" if api == "plain" else "pkg.S/M")
    assert made.code() is (None if api == "plain" else grpc.StatusCode.UNAVAILABLE)
    assert isinstance(made, grpc.RpcError) is (api != "plain")
    assert isinstance(made, grpc.aio.AioRpcError) is (api == "grpc.aio")
    with pytest.raises(CircuitOpenError) as raised:
        Mock(side_effect=made)()
    assert raised.value is made


def test_refusal_is_that_of_a_breaker() -> None:
    """A refusal made for a mock is of the class that a guarded call raises."""
    breakers = BreakerRegistry()
    channel = grpc.intercept_channel(grpc.insecure_channel("localhost:1"), CircuitBreakerInterceptor(breakers))
    with channel, hold_open(breakers, "pkg.S/M"), pytest.raises(CircuitOpenError) as refused:
        channel.unary_unary("/pkg.S/M")(b"")
    made = refusal("/pkg.S/M", retry_after=None)
    assert type(refused.value) is type(made)
    assert (str(refused.value), refused.value.condition) == (str(made), made.condition)
    with pytest.raises(ValueError, match=r"api must be 'grpc', 'grpc.aio' or 'plain', got 'http'"):
        refusal("pkg.S/M", api="http")  # type: ignore[arg-type]


@pytest.mark.parametrize("api", ["grpc", "grpc.aio"])
def test_refusal_of_a_target_is_that_of_its_breaker(api: Any) -> None:
    """A refusal made with a target says what a breaker of that target says, with or without a leading slash."""
    breakers = BreakerRegistry()
    with hold_open(breakers, ("pkg.S/M", "eu"), retry_after=5) as breaker, pytest.raises(CircuitOpenError) as refused:
        breaker.admit("pkg.S/M")
    for name in ("pkg.S/M@eu", "/pkg.S/M@eu"):
        made = refusal(name, retry_after=5, api=api)
        facts = [(it.method, it.target, it.breaker, it.details()[:46]) for it in (made, refused.value)]
        assert facts == [("pkg.S/M", "eu", "pkg.S/M@eu", "circuit breaker open for pkg.S/M@eu; next prob")] * 2


def test_refusal_of_what_is_no_name() -> None:
    """A refusal is of a name."""
    with pytest.raises(TypeError, match=r"refusal takes a name like 'pkg\.Service/Method', got None"):
        refusal(None)  # type: ignore[arg-type]
