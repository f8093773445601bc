"""Signal handlers that raise while a user's hook runs: their exceptions belong to the caller, the hook's own to the log."""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, CircuitBreaker, EndedCall, Outcome
from grpc_breaker.testing import FakeClock

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on this system")


class SoftTimeLimit(Exception):  # noqa: N818 - Celery's name for it has no "Error" either
    """What a signal handler raises, of a class that `except Exception` catches."""


def handler(number: int, frame: FrameType | None) -> None:
    """A handler as most are written."""
    raise SoftTimeLimit


def of_any_arguments(*_: Any) -> None:
    """A handler that does not name its arguments."""
    raise SoftTimeLimit


@functools.wraps(handler)
def decorated(*args: Any, **kwargs: Any) -> None:
    """A handler inside a decorator."""
    handler(*args, **kwargs)


class Limit:
    """A handler that is a method."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise SoftTimeLimit


@pytest.fixture(
    params=[handler, of_any_arguments, decorated, Limit()], ids=["function", "*args", "decorated", "object"]
)
def signalled(request: pytest.FixtureRequest) -> Iterator[None]:
    """The signal has a handler that raises."""
    before = signal.signal(signal.SIGUSR1, request.param)
    yield
    signal.signal(signal.SIGUSR1, before)


class MuteError(Exception):
    """An exception whose words are the hook."""

    def __init__(self, hook: Callable[[], object]) -> None:
        self.hook = hook

    def __str__(self) -> str:
        self.hook()
        return "words"


def in_a_listener(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is a listener of a change."""
    breaker = CircuitBreaker("prices", BreakerPolicy(consecutive_failures=1), clock=clock)
    breaker.on_state_change(lambda change: hook())
    breaker.admit(timeout=1).failure()
    return breaker


def in_the_name_of_a_listener(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is what a listener that raised does when it is asked for its name."""

    class Proxy:
        broken = False

        def __getattr__(self, name: str) -> object:
            if self.broken:
                hook()
            raise AttributeError(name)

        def __call__(self, change: object) -> None:
            Proxy.broken = True
            raise LookupError

    breaker = CircuitBreaker("prices", BreakerPolicy(consecutive_failures=1), clock=clock)
    breaker.on_state_change(Proxy())
    breaker.admit(timeout=1).failure()
    return breaker


def in_the_clock(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is the clock, as a permit with a lease is given back."""
    broken: list[bool] = []

    def now() -> float:
        if broken:
            broken.clear()
            hook()
        return 0.0

    breaker = CircuitBreaker("prices", clock=now)
    permit = breaker.admit(timeout=1)
    broken.append(True)
    permit.ignore()
    return breaker


def in_a_listener_of_refusals(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is a listener of a refusal."""
    breaker = CircuitBreaker("prices", clock=clock)
    breaker.on_rejection(lambda rejection: hook())
    breaker.force_open()
    breaker.try_admit()
    return breaker


def in_a_classifier(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is a classifier."""

    def classify(call: EndedCall) -> Outcome:
        hook()
        return Outcome.SUCCESS

    breaker = CircuitBreaker("prices", BreakerPolicy(classify=classify), clock=clock)
    with breaker.admit(timeout=1):
        pass
    return breaker


def in_random(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is the source of chance."""
    made: list[bool] = []

    def drawn() -> float:
        if made:
            hook()
        return 0.5

    breaker = CircuitBreaker("prices", BreakerPolicy(consecutive_failures=1), clock=clock, random=drawn)
    made.append(True)
    breaker.admit(timeout=1).failure()
    return breaker


def in_the_words_of_an_error(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is `str` of the exception that ends a block."""
    breaker = CircuitBreaker("prices", clock=clock)
    with suppress(MuteError), breaker.admit(timeout=1):
        raise MuteError(hook)
    return breaker


def in_a_log_handler(hook: Callable[[], object], clock: FakeClock) -> CircuitBreaker:
    """The hook is a filter of the application's log."""
    logger = logging.getLogger("grpc_breaker")
    breaker = CircuitBreaker("prices", clock=clock)
    breaker.on_state_change(lambda change: 1 / 0)

    def say(record: logging.LogRecord) -> bool:
        if "ZeroDivisionError" in str(record.exc_info):
            hook()
        return True

    logger.addFilter(say)
    try:
        breaker.admit(timeout=1).ignore()
        breaker.force_open()
    finally:
        logger.removeFilter(say)
    return breaker


HOOKS = [
    in_a_listener,
    in_the_clock,
    in_the_name_of_a_listener,
    in_a_listener_of_refusals,
    in_a_classifier,
    in_random,
    in_the_words_of_an_error,
    in_a_log_handler,
]


@pytest.mark.parametrize("story", HOOKS, ids=lambda story: story.__name__)
def test_signal_inside_a_hook_reaches_the_caller(
    story: Callable[[Callable[[], object], FakeClock], CircuitBreaker],
    signalled: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a signal handler raises while a hook runs reaches the caller, and is not logged as the hook's."""
    with pytest.raises(SoftTimeLimit):
        story(lambda: signal.raise_signal(signal.SIGUSR1), FakeClock())
    assert "SoftTimeLimit" not in caplog.text


@pytest.mark.parametrize("story", HOOKS, ids=lambda story: story.__name__)
def test_what_a_hook_raises_reaches_nobody(
    story: Callable[[Callable[[], object], FakeClock], CircuitBreaker],
) -> None:
    """What a hook itself raises does not reach the caller, though it is of the very class that a signal handler raises."""

    def hook() -> None:
        raise SoftTimeLimit

    breaker = story(hook, FakeClock())
    assert breaker.in_flight == 0
