"""An exception at every line of the parts around the breaker, as a signal handler raises it.

As in `test_interrupted_adapters.py`: it reaches the caller, and no permit is lost.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import _channel, _interceptor

import grpc_breaker
from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreakerInterceptor,
    Fallback,
    LastGood,
    MethodPolicy,
    RetryPolicy,
    RetryThrottling,
    aio,
)
from grpc_breaker.testing import FakeClock
from tests.support.lines import act_at
from tests.unit.test_adapters import METHOD, Ended

PACKAGE = Path(grpc_breaker.__file__).parent
NAMES = (
    "_stack.py",
    "_sync_stack.py",
    "_aio_stack.py",
    "_aio_calls.py",
    "_error_details.py",
    "_rpc.py",
    "aio.py",
    "_sync.py",
)
FILES = {str(PACKAGE / name) for name in NAMES}
DETAILS = SimpleNamespace(method=METHOD, timeout=100.0, metadata=[("tenant", "a")], credentials=None)
LEASE = 200.0
"""Seconds, more than every lease here."""
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

BREAKER = BreakerPolicy(consecutive_failures=100, half_open_max_calls=1, probe_deadline=1)
COME_BACK = (("grpc-retry-pushback-ms", "0"),)
"""Has the next attempt follow at once."""


class SoftTimeLimit(Exception):  # noqa: N818 - Celery's name for it has no "Error" either
    """What a signal handler raises."""


def answer(request: Any, error: Any) -> bytes:
    """A fallback."""
    return b"answer"


async def answer_later(request: Any, error: Any) -> bytes:
    """The same, awaited."""
    await asyncio.sleep(0)
    return b"answer"


def messages(request: Any, error: Any) -> list[bytes]:
    """The fallback of a stream."""
    return [b"1", b"2"]


def policy(function: Any = answer) -> MethodPolicy:
    """All parts."""
    return MethodPolicy(
        breaker=BREAKER,
        timeout=50,
        attempt_timeout=20,
        retry=RetryPolicy(initial_backoff=0.01, retryable_status_codes=("UNAVAILABLE",)),
        fallback=Fallback(last_good=LastGood(key_metadata=("tenant",)), function=function),
    )


class Stage:
    """A breaker, and the call that is made on it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breakers = BreakerRegistry(clock=self.clock, retry_throttling=RetryThrottling())
        self.use(policy())

    def use(self, wanted: MethodPolicy) -> None:
        """Use another policy."""
        self.breakers = BreakerRegistry(default=wanted, clock=self.clock, retry_throttling=RetryThrottling())
        self.breaker = self.breakers[METHOD]
        self.sync = CircuitBreakerInterceptor(self.breakers, telemetry=False)
        self.aio = dict(zip(KINDS, aio.interceptors(self.breakers, telemetry=False), strict=True))

    def half_open_next(self) -> None:
        """Have the next call be a probe."""
        self.breaker.reconfigure(BreakerPolicy(consecutive_failures=1, half_open_max_calls=1, probe_deadline=1))
        self.breaker.admit().failure()
        self.clock.advance(100)

    def call(self, *made: Any, kind: str = "unary_unary") -> Any:
        """Make a sync call, whose attempts end with `made`, one after the other."""
        ends = iter(made)
        return getattr(self.sync, f"intercept_{kind}")(lambda details, request: next(ends), DETAILS, b"request")

    def call_aio(self, *made: Any, kind: str = "unary_unary", read: Any = None) -> None:
        """Make an asyncio call, and await or read what it gives."""
        lost: list[BaseException] = []
        ends = iter(made)

        async def continuation(details: Any, request: Any) -> Any:
            return next(ends)

        async def story() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: lost.append(context["exception"]))
            call = await getattr(self.aio[kind], f"intercept_{kind}")(continuation, DETAILS, b"request")
            with suppress(grpc.RpcError):
                await (call if read is None else read(call))
            for _ in range(3):
                await asyncio.sleep(0)

        asyncio.run(story())
        if lost:
            raise lost[0]


@pytest.fixture(autouse=True)
def small_heap() -> Iterator[None]:
    """Leave what the other tests have made out of the collections of these, which are many."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def ended(code: grpc.StatusCode = grpc.StatusCode.OK) -> Any:
    """A blocking call of grpcio's that has ended."""
    state = _channel._RPCState((), (), COME_BACK, code, "gone")
    if code is grpc.StatusCode.OK:
        return _interceptor._UnaryOutcome(b"", _channel._MultiThreadedRendezvous(state, None, None, None))  # type: ignore[no-untyped-call]
    return _channel._InactiveRpcError(state)  # type: ignore[no-untyped-call]


def future(code: grpc.StatusCode = grpc.StatusCode.OK) -> Any:
    """A future of grpcio's that has ended."""
    state = _channel._RPCState((), (), COME_BACK, code, "gone")
    state.response = b""
    return _channel._MultiThreadedRendezvous(state, None, None, None)  # type: ignore[no-untyped-call]


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class AioEnded(Ended, grpc.aio.StreamUnaryCall):  # type: ignore[misc]
    """An asyncio call that has ended, and can be awaited."""

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        if self.status is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(self.status, grpc.aio.Metadata(), grpc.aio.Metadata(*COME_BACK), "gone")
        return b""

    def cancelled(self) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    time_remaining = wait_for_connection = write = done_writing = lambda self: None
    debug_error_string = initial_metadata = Ended.details


def kept_and_found(stage: Stage) -> None:
    stage.call(ended())
    assert stage.call(ended(UNAVAILABLE), ended(UNAVAILABLE), ended(UNAVAILABLE)).result() == b""


def retried(stage: Stage) -> None:
    assert stage.call(ended(UNAVAILABLE), ended()).result() == b""


def refused(stage: Stage) -> None:
    stage.breaker.force_open()
    call = stage.call()
    assert (call.result(), call.code(), call.exception()) == (b"answer", grpc.StatusCode.OK, None)


def futures(stage: Stage) -> None:
    assert stage.call(future()).result() == b""
    call = stage.call(future(UNAVAILABLE), kind="stream_unary")
    assert (call.code(), call.details(), call.result()) == (grpc.StatusCode.OK, "", b"answer")


def stream(stage: Stage) -> None:
    stage.use(policy(messages))
    stage.breaker.force_open()
    call = stage.call(kind="unary_stream")
    assert (list(call), call.code()) == ([b"1", b"2"], grpc.StatusCode.OK)


def probe(stage: Stage) -> None:
    stage.half_open_next()
    stage.call(ended())


def aio_kept_and_found(stage: Stage) -> None:
    stage.call_aio(AioEnded())
    stage.call_aio(*[AioEnded(UNAVAILABLE)] * 3)


def aio_retried(stage: Stage) -> None:
    stage.call_aio(AioEnded(UNAVAILABLE), AioEnded())


def aio_refused(stage: Stage) -> None:
    stage.use(policy(answer_later))
    stage.breaker.force_open()
    stage.call_aio()
    stage.call_aio(kind="stream_unary")


def aio_request_stream(stage: Stage) -> None:
    stage.use(policy(answer_later))
    stage.call_aio(AioEnded(UNAVAILABLE), kind="stream_unary")
    stage.call_aio(AioEnded(UNAVAILABLE), kind="stream_unary", read=lambda call: call.code())


def aio_stream(stage: Stage) -> None:
    stage.use(policy(messages))
    stage.breaker.force_open()

    async def read(call: Any) -> None:
        assert [message async for message in call] == [b"1", b"2"]

    stage.call_aio(kind="unary_stream", read=read)


def aio_probe(stage: Stage) -> None:
    stage.half_open_next()
    stage.call_aio(AioEnded())


STORIES: list[Callable[[Stage], None]] = [
    kept_and_found,
    retried,
    refused,
    futures,
    stream,
    probe,
    aio_kept_and_found,
    aio_retried,
    aio_refused,
    aio_request_stream,
    aio_stream,
    aio_probe,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_exception_at_every_line(story: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception raised before any line of the parts reaches the caller, and every permit comes back."""
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
    assert at > 20
    assert swallowed == []
    assert set(unraisable) <= {
        "_Follower.settle",
        "_Follower.__del__",
    }  # Python lets nothing that they raise reach anybody
