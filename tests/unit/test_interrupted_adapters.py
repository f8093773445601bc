"""An exception at every line of the adapters, as a signal handler raises it: it reaches the caller, and no permit is lost.

A story is one guarded call. It runs once for each line of the adapters that it executes, with an exception raised before
that line. Whatever the adapters catch there, it is not this one; and the call's permit comes back, at the latest with its
lease.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import _channel, _interceptor

import grpc_breaker
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, EndedCall, aio
from grpc_breaker._headers import HeaderLook
from grpc_breaker.testing import FakeClock
from tests.support.lines import act_at
from tests.unit.test_adapters import METHOD, Ended, EndsLater, Running, WriteFailed
from tests.unit.test_adapters import State as Kept

PACKAGE = Path(grpc_breaker.__file__).parent
FILES = {str(PACKAGE / name) for name in ("_rpc.py", "_sync.py", "aio.py", "_headers.py")}
DETAILS = SimpleNamespace(method=METHOD, timeout=1.0)
LEASE = 40.0
"""Seconds, more than every lease here."""


class SoftTimeLimit(Exception):  # noqa: N818 - Celery's name for it has no "Error" either
    """What a signal handler raises."""


class Stage:
    """A breaker, and the one call that is made on it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        policy = BreakerPolicy(consecutive_failures=100, half_open_max_calls=1)
        self.breakers = BreakerRegistry(default=policy, clock=self.clock)
        self.breaker = self.breakers[METHOD]
        self.interceptor = CircuitBreakerInterceptor(self.breakers, telemetry=False)
        self.aio = dict(zip(KINDS, aio.interceptors(self.breakers, telemetry=False), strict=True))

    def half_open_next(self) -> None:
        """Have the next call be a probe."""
        self.breaker.reconfigure(BreakerPolicy(consecutive_failures=1, half_open_max_calls=1))
        self.breaker.admit().failure()
        self.clock.advance(100)

    def classify(self) -> None:
        """Have a classifier judge the call."""

        def classify(call: EndedCall) -> None:
            assert call.method

        self.breaker.reconfigure(BreakerPolicy(classify=classify))

    def call(self, kind: str, made: Any) -> Any:
        """Make a sync call: the continuation returns `made`, or raises it."""

        def continuation(details: Any, request: Any) -> Any:
            if isinstance(made, Exception) and not isinstance(made, grpc.RpcError):
                raise made
            return made

        return getattr(self.interceptor, f"intercept_{kind}")(continuation, DETAILS, b"")

    def call_aio(self, kind: str, made: Any, then: Callable[[Any], Any] = lambda call: None) -> None:
        """Make an asyncio call, and what becomes of it `then`."""
        lost: list[BaseException] = []

        async def continuation(details: Any, request: Any) -> Any:
            if isinstance(made, Exception):
                raise made
            return made

        async def story() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: lost.append(context["exception"]))
            then(await getattr(self.aio[kind], f"intercept_{kind}")(continuation, DETAILS, b""))
            for _ in range(3):
                await asyncio.sleep(0)

        asyncio.run(story())
        if lost:  # a callback that raises: asyncio hands this to the application in its own way
            raise lost[0]


@pytest.fixture(autouse=True)
def small_heap() -> Iterator[None]:
    """Leave what the other tests have made out of the collections of these, which are many."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def ended(code: grpc.StatusCode) -> Any:
    """A blocking call of grpcio's that has ended."""
    state = _channel._RPCState((), (), (), code, "gone")
    if code is grpc.StatusCode.OK:
        return _interceptor._UnaryOutcome(b"", _channel._MultiThreadedRendezvous(state, None, None, None))  # type: ignore[no-untyped-call]
    return _channel._InactiveRpcError(state)  # type: ignore[no-untyped-call]


class Stateful(Running):
    """A running call with the state that grpcio keeps."""

    def __init__(self) -> None:
        super().__init__()
        self._state = Kept()

    def end(self, code: grpc.StatusCode) -> None:
        self._state.code = code
        super().end(code)


class AioRunning(EndsLater):
    """An asyncio stream under way, with what shows its headers."""

    _cython_call = SimpleNamespace(_initial_metadata=None)


class Failing(Ended):
    """An asyncio call that raises what is no RPC's error."""

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        raise ValueError("metadata that cannot be sent")


def refused(stage: Stage) -> None:
    stage.breaker.force_open()
    stage.call("unary_unary", None)


def inner_error(stage: Stage) -> None:
    with suppress(ValueError):
        stage.call("unary_unary", ValueError())


def inner_rpc_error(stage: Stage) -> None:
    stage.call("unary_unary", _interceptor._FailureOutcome(ended(grpc.StatusCode.ABORTED), None))  # type: ignore[no-untyped-call,arg-type]


def classified(stage: Stage) -> None:
    stage.classify()
    stage.call("unary_unary", ended(grpc.StatusCode.UNAVAILABLE))


def running(stage: Stage) -> None:
    stage.call("unary_stream", call := Stateful())
    call.end(grpc.StatusCode.UNAVAILABLE)


def running_of_another_kind(stage: Stage) -> None:
    stage.call("stream_unary", call := Running())
    call.end(grpc.StatusCode.OK)


def bare_iterator(stage: Stage) -> None:
    assert list(stage.call("unary_stream", iter([b"1", b"2"]))) == [b"1", b"2"]
    stage.call("unary_stream", (it for it in (b"1", b"2"))).close()


def probe(stage: Stage) -> None:
    stage.half_open_next()
    stage.call("unary_unary", ended(grpc.StatusCode.OK))


def probe_stream(stage: Stage) -> None:
    stage.half_open_next()
    stage.call("unary_stream", call := Stateful())
    call.end(grpc.StatusCode.OK)


def probe_of_a_bare_iterator(stage: Stage) -> None:
    stage.half_open_next()
    list(stage.call("unary_stream", iter([b"1", b"2"])))


def probe_twice(stage: Stage) -> None:
    stage.half_open_next()
    inner = CircuitBreakerInterceptor(stage.breakers, telemetry=False)

    def continuation(details: Any, request: Any) -> Any:
        return inner.intercept_unary_unary(lambda details, request: ended(grpc.StatusCode.OK), details, request)

    stage.interceptor.intercept_unary_unary(continuation, DETAILS, b"")


def aio_refused(stage: Stage) -> None:
    stage.breaker.force_open()
    stage.call_aio("unary_unary", None)


def aio_error(stage: Stage) -> None:
    with suppress(ValueError):
        stage.call_aio("unary_stream", ValueError())


def aio_classified(stage: Stage) -> None:
    stage.classify()
    stage.call_aio("unary_unary", Ended())


def aio_probe(stage: Stage) -> None:
    stage.half_open_next()
    stage.call_aio("unary_unary", Ended())


def aio_probe_stream(stage: Stage) -> None:
    stage.half_open_next()
    stage.call_aio("unary_stream", AioRunning(), lambda call: call.end(grpc.StatusCode.OK))


STORIES: list[Callable[[Stage], None]] = [
    lambda stage: stage.call("unary_unary", ended(grpc.StatusCode.OK)),
    lambda stage: stage.call("stream_unary", ended(grpc.StatusCode.UNAVAILABLE)),
    refused,
    inner_error,
    inner_rpc_error,
    classified,
    running,
    running_of_another_kind,
    bare_iterator,
    probe,
    probe_stream,
    probe_of_a_bare_iterator,
    probe_twice,
    lambda stage: stage.call_aio("unary_unary", Ended()),
    lambda stage: stage.call_aio("unary_unary", Ended(grpc.StatusCode.UNAVAILABLE)),
    lambda stage: stage.call_aio("unary_unary", Failing()),
    lambda stage: stage.call_aio("stream_unary", Ended(grpc.StatusCode.NOT_FOUND)),
    lambda stage: stage.call_aio("unary_stream", AioRunning(), lambda call: call.end(grpc.StatusCode.UNAVAILABLE)),
    lambda stage: stage.call_aio("stream_stream", WriteFailed()),
    aio_refused,
    aio_error,
    aio_classified,
    aio_probe,
    aio_probe_stream,
]
NAMES = [story.__name__ if story.__name__ != "<lambda>" else f"story {n}" for n, story in enumerate(STORIES)]


@pytest.mark.parametrize("story", STORIES, ids=NAMES)
def test_exception_at_every_line(story: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception raised before any line of an adapter reaches the caller, and the permit comes back."""
    unraisable: list[str] = []

    def note(it: Any) -> None:
        if it.exc_type is SoftTimeLimit:  # not, say, that a coroutine was made and never awaited
            unraisable.append(getattr(it.object, "__qualname__", type(it.object).__qualname__))

    monkeypatch.setattr(sys, "unraisablehook", note)
    swallowed: list[str] = []
    where = ""

    def strike() -> None:
        nonlocal where
        code, line = (frame := sys._getframe(1).f_locals["frame"]).f_code, frame.f_lineno
        where = f"{Path(code.co_filename).name}:{line} in {code.co_qualname}"
        raise SoftTimeLimit

    for at in range(1, 1000):
        stage = Stage()
        before = len(unraisable)
        try:
            if not act_at(FILES, lambda stage=stage: story(stage), strike, at):
                break
            reached = False
        except SoftTimeLimit:
            reached = True
        gc.collect()
        if not reached and len(unraisable) == before:
            swallowed.append(where)
        stage.clock.advance(LEASE)
        assert stage.breaker.in_flight == 0, where
    assert at > 5
    assert swallowed == []
    finalizers = {"_Follower.settle", "_Follower.__del__", "_Messages.__del__", "_LaterLook.__del__"}
    assert set(unraisable) <= finalizers  # Python lets nothing that they raise reach anybody


@pytest.fixture
def strike() -> Iterator[Callable[..., Any]]:
    """What is interrupted by a real signal, whose handler raises."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda *_: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


class Interrupted(grpc.RpcError):
    """An RPC's error of another interceptor's that is interrupted when it is asked for its status."""

    def __init__(self, strike: Callable[..., Any]) -> None:
        self.code = self.details = strike


def test_signal_while_another_interceptors_objects_are_asked(strike: Callable[..., Any]) -> None:
    """A signal that interrupts what another interceptor handed us is no error of that interceptor's."""
    stage = Stage()
    odd = type("Details", (), {"method": METHOD, "timeout": property(strike)})()
    with pytest.raises(SoftTimeLimit):
        stage.interceptor.intercept_unary_unary(lambda details, request: None, odd, b"")

    def raising(details: Any, request: Any) -> Any:
        raise Interrupted(strike)

    with pytest.raises(SoftTimeLimit):
        stage.interceptor.intercept_unary_unary(raising, DETAILS, b"")
    assert stage.breaker.in_flight == 0


def test_signal_while_headers_are_looked_for(strike: Callable[..., Any]) -> None:
    """A signal that interrupts a look for headers goes on; so does one while the thread for it is started."""
    stage = Stage()
    stage.half_open_next()
    permit, stream = stage.breaker.admit(), Running()
    with pytest.raises(SoftTimeLimit):
        HeaderLook(permit, stream, strike).again()


class NoTime(RuntimeError):  # noqa: N818 - as above
    """What Python raises where no thread can be started, and a handler may, too."""


def test_signal_while_a_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler's exception of the class that Python has for threads it cannot start is not taken for one of those."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise NoTime

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        stage = Stage()
        stage.half_open_next()
        monkeypatch.setattr(threading.Thread, "start", lambda thread: signal.raise_signal(signal.SIGUSR1))
        with pytest.raises(NoTime):
            stage.call("unary_stream", Stateful())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stage.breaker.in_flight == 0


@pytest.mark.parametrize("made", [Ended(), Ended(grpc.StatusCode.ABORTED)], ids=["ok", "error"])
def test_clock_that_breaks_in_an_asyncio_call(made: Ended, caplog: pytest.LogCaptureFixture) -> None:
    """A result that cannot be counted costs the asyncio call nothing, and is logged once."""
    broken: list[bool] = []

    def clock() -> float:
        if broken:
            raise OSError
        return 0.0

    stage = Stage()
    breakers = BreakerRegistry(clock=clock)
    (stage.aio["unary_unary"], *_) = aio.interceptors(breakers, telemetry=False)

    async def continuation(details: Any, request: Any) -> Any:
        broken.append(True)
        return made

    async def story() -> None:
        assert await stage.aio["unary_unary"].intercept_unary_unary(continuation, DETAILS, b"") is made

    asyncio.run(story())
    assert caplog.text.count("(logged once)") == 1
