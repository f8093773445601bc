"""Which exceptions pass through the package, and which ones a hook or the package itself raised."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy
from grpc_breaker._core.interrupts import passes_through


class TimeLimitError(Exception):
    """What an application's signal handler raises."""


def caught(act: Callable[[], object]) -> BaseException:
    """What `act` raises."""
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.fixture
def interrupt() -> Iterator[Callable[[Callable[..., object]], Callable[[], None]]]:
    """Interrupt the main thread by a signal with the given handler."""
    before = signal.getsignal(signal.SIGUSR1)

    def prepare(handler: Callable[..., object]) -> Callable[[], None]:
        signal.signal(signal.SIGUSR1, handler)
        return lambda: signal.raise_signal(signal.SIGUSR1)

    yield prepare
    signal.signal(signal.SIGUSR1, before)


def plain_handler(number: int, frame: FrameType | None) -> None:
    """The usual form."""
    raise TimeLimitError


def handler_of_any_arguments(*args: Any) -> None:
    """Its arguments in a tuple."""
    raise TimeLimitError


class Limits:
    """Handlers of other forms."""

    def method(self, number: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    def deeper(self, number: int, frame: FrameType | None) -> None:
        self.method(number, None)

    def builtin(self, number: int, frame: FrameType | None) -> None:
        raise ValueError


HANDLERS = [plain_handler, handler_of_any_arguments, Limits().method, Limits().deeper, Limits().builtin]


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.__qualname__)
def test_signal_handler_that_raises(handler: Callable[..., object], interrupt: Any) -> None:
    """What a signal handler raises passes through, whatever its class and the form of the handler."""
    raised = caught(interrupt(handler))
    assert isinstance(raised, (TimeLimitError, ValueError))
    assert passes_through(raised)


def test_signal_handler_that_interrupts_a_hook(interrupt: Any) -> None:
    """What a signal handler raises while a hook runs passes through: the hook did not raise it."""
    strike = interrupt(plain_handler)

    def hook() -> None:
        strike()

    assert passes_through(caught(hook))


def test_signal_handler_below_a_frame_that_python_did_not_run(interrupt: Any) -> None:
    """Extension modules put frames of their own into a traceback, between the interrupted one and the handler's."""
    raised = caught(interrupt(plain_handler))
    first = raised.__traceback__
    assert first is not None
    strange = caught(lambda: None + None)  # type: ignore[operator]
    assert strange.__traceback__ is not None
    between = strange.__traceback__.tb_next
    assert between is not None
    last = first
    while last.tb_next is not None and last.tb_next.tb_next is not None:
        last = last.tb_next
    between.tb_next, last.tb_next = last.tb_next, between
    assert passes_through(raised)


def test_trace_function_that_raises() -> None:
    """So does what a trace function raises: a debugger that is told to stop, say."""

    def traced() -> None:
        pass

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is traced.__code__:
            raise TimeLimitError

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        raised = caught(traced)
    finally:
        sys.settrace(before)
    assert passes_through(raised)


def test_hook_that_raises() -> None:
    """What a hook raises does not pass through, though it holds a frame: its own, or that of another call."""
    elsewhere = sys._getframe()

    def hook() -> None:
        own, other = sys._getframe(), [elsewhere]
        raise TimeLimitError(own, other)

    assert not passes_through(caught(hook))


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError(), GeneratorExit()], ids=repr
)
def test_what_is_no_exception(error: BaseException) -> None:
    """Ctrl-C, an exit and cancellation pass through, also where a hook raises them."""
    assert passes_through(error)


def test_error_that_was_never_raised() -> None:
    """An exception without a traceback passes through nothing."""
    assert not passes_through(TimeLimitError())


def test_error_of_the_package() -> None:
    """An error that the package raises itself does not pass through."""
    error = caught(lambda: BreakerPolicy(minimum_calls=0))
    assert isinstance(error, ValueError)
    assert not passes_through(error)


def in_the_package(act: str) -> BaseException:
    """What a line in a module of the package raises."""
    namespace = {"__name__": "grpc_breaker._core.anywhere", "TimeLimitError": TimeLimitError}
    exec(f"def line():\n    {act}", namespace)
    return caught(namespace["line"])  # type: ignore[arg-type]


def test_injected_from_another_thread() -> None:
    """An exception that begins in a line of the package and is neither Python's nor ours was injected there."""
    assert passes_through(in_the_package("raise TimeLimitError"))
    assert not passes_through(in_the_package("raise LookupError"))
    assert not passes_through(in_the_package("from grpc_breaker import CircuitOpenError; raise CircuitOpenError"))


def test_long_traceback() -> None:
    """A traceback of many frames is read in one pass."""

    def dig(depth: int) -> None:
        if not depth:
            raise RecursionError
        dig(depth - 1)

    assert not passes_through(caught(lambda: dig(500)))


def test_exception_of_another_thread() -> None:
    """An exception that was raised in another thread is judged by its own traceback."""
    errors: list[BaseException] = []
    thread = threading.Thread(target=lambda: errors.append(caught(lambda: {}["none"])))
    thread.start()
    thread.join()
    assert not passes_through(errors[0])
