"""The interceptors for `grpc.aio`: four, one for each RPC kind.

1.  A call of one request and one answer is awaited inside the interceptor, which settles its permit and then returns
    the call. An error of the call is not raised here but again where the application awaits it. What differs from a
    bare call:

    - An interceptor around ours is handed a call that has ended.
    - While the call runs, `cancel()` returns True each time, and a task that is cancelled while it waits for the call's
      metadata or status cancels the call. Once cancelled, a call has `None` for its metadata.
    - A done callback that raises does not break the call: the loop's exception handler reports what it raised.

2.  The `continuation()` of a stream returns a call that is still running. That is handed to the application as it is,
    and never awaited here: the application may have requests still to write, and awaiting its code can deadlock
    (grpc #34530).

    what happens                                   how the permit is settled
    a unary call ends                              when its `await` ends, by what that returns or raises
    a stream ends                                  done callback, by its status
    cancelled while an inner interceptor waits     `BaseException` out of `continuation()`: ignored
    an inner interceptor has answered a stream     at once, by the status it shows; a bare stream shows none: ignored
    a call cannot begin: odd metadata              ignored
    a request cannot be written                    by the status that follows, looked for a few times; else ignored
    a stream is cancelled here                     a success if it was answered, else ignored
    a stream is abandoned                          the same when grpcio says so; since grpcio 1.83 it never does
                                                   (grpc #43462), and then its lease ends it, if it has one

3.  A stream's done callback runs on the loop before the application resumes, and one that raises would break the
    application's call. Its status comes from `call.code()`, a coroutine that finishes at once on a call that has ended
    and is therefore stepped once, without a loop: the callback can come from the garbage collector after the loop is
    gone.
4.  A server may answer before it has read every request. The write that then fails makes grpcio show an INTERNAL of its
    own, and call its callbacks, moments before the server's answer takes that one's place. So that status is not
    believed at once.
5.  The headers of a stream are an answer, see `_headers.py`.
6.  Errors of our own bookkeeping are logged once, and the call goes on; see rule 5 of `_rpc.py`.
7.  There are four classes because one object that implements several kinds is silently used for the first of them alone
    (grpc #31442).
"""

# pyright: reportMissingTypeArgument=false
# grpc's classes are generic in their stubs and not at run time.

from __future__ import annotations

import asyncio
import math
import time
from asyncio import _get_running_loop
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import grpc
from grpc import aio

from grpc_breaker import _aio_stack as stacked
from grpc_breaker._aio_calls import (
    RefusedCall,
    RefusedStreamStream,
    RefusedStreamUnary,
    RefusedUnaryStream,
    RefusedUnaryUnary,
    refused_error,
)
from grpc_breaker._core.events import StateChange
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.permit import Permit, Probe
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import Outcome
from grpc_breaker._headers import GRACE, HeaderLook
from grpc_breaker._registry import BreakerRegistry
from grpc_breaker._rpc import (
    OK,
    Guard,
    Probing,
    give_back,
    own_cancellation,
    report,
    report_in_callback,
    settle,
    settle_raised,
    timeout_of,
    write_failed,
)
from grpc_breaker._stack import for_probe
from grpc_breaker._waiting import check_method, check_timeout, pauses
from grpc_breaker.telemetry import BreakerTelemetry, attach

__all__ = ["GuardingInterceptor", "interceptors", "wait_until_admitted"]

_SUCCESS: Final = Outcome.SUCCESS

_LOOKS: Final = (0.0, 0.0, 0.0, 0.001, 0.005, 0.02, 0.07)
"""Seconds before each look for the status that follows a failed write. Most often it is there at once, so that the
result of a call counts before its caller goes on."""


def interceptors(
    breakers: BreakerRegistry | None = None,
    *,
    target: str | None = None,
    telemetry: bool | BreakerTelemetry = True,
) -> list[GuardingInterceptor]:
    """The interceptors that guard every call of an asyncio channel.

    Give them to the channel when it is made::

        channel = grpc.aio.insecure_channel(target, interceptors=aio.interceptors(breakers))

    Covers all four RPC kinds: `await`, `async for`, `read`, `write`, `done_writing`. A refused call shows
    `CircuitOpenError`, which is a `grpc.aio.AioRpcError`, wherever its answer is asked for; writing to it raises
    `asyncio.InvalidStateError`, as to every call that has ended. An admitted call is untouched. They may be shared by
    any number of channels and event loops.

    Args:
        breakers: The registry to ask. Default: a new one, a breaker with the default policy for each method.
        target: A name for the server that these channels call, where one registry guards channels to several: the
            breakers are then this target's own, "pkg.Service/Method@eu". Default: none.
        telemetry: True for OpenTelemetry's global providers (the default), False for none, or a `BreakerTelemetry`.

    Returns:
        Four interceptors, one for each RPC kind. Each has the registry that they ask, as `breakers`.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: `target` has spaces or an "@" in it.
    """
    guard = Guard(breakers, target)
    guard.capture_with(attach(guard.breakers, telemetry))
    return [_UnaryUnary(guard), _UnaryStream(guard), _StreamUnary(guard), _StreamStream(guard)]


async def wait_until_admitted(
    breakers: BreakerRegistry,
    method: str | bytes,
    timeout: float,  # noqa: ASYNC109 - the same arguments as for threads
    *,
    target: str | None = None,
) -> bool:
    """Wait until a call of a method would be admitted, without blocking the loop.

    Args:
        breakers: The registry.
        method: The method, "pricing.v1.Pricing/GetPrice".
        timeout: Seconds to wait at most, 0 or more; at 0 it only looks.
        target: The target, where the interceptor has one.

    Returns:
        As `BreakerRegistry.wait_until_admitted`, which says what it means.

    Raises:
        TypeError: `method` is neither a string nor bytes, `timeout` no number, or `target` no string.
        ValueError: `method` is the name of no method, `timeout` is negative or not a number, or `target` is none.
    """
    check_method(method)
    seconds = check_timeout(timeout)
    breaker = breakers.breaker_for(method, target)
    if breaker is None or breaker.refusal_now() is None:
        return True
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake(_: StateChange) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(changed.set)

    end = breaker.on_state_change(wake)
    try:
        deadline = loop.time() + seconds
        for pause in pauses(breakers, method, target):
            left = deadline - loop.time()
            if left <= 0:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(min(pause, left)):
                    await changed.wait()
            changed.clear()
    finally:
        end()
    return True


class GuardingInterceptor(aio.ClientInterceptor):
    """One of the four interceptors that `interceptors` returns."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @property
    def breakers(self) -> BreakerRegistry:
        """The registry that this interceptor and the other three ask."""
        return self._guard.breakers


class _UnaryUnary(GuardingInterceptor, aio.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Guard one call; called by grpcio, which awaits what this returns."""
        permit = self._guard.admit(client_call_details, True)
        if type(permit) is tuple:
            return stacked.unary_unary(self._guard, _unary_unary, permit, continuation, client_call_details, request)
        return _unary_unary(permit, continuation, client_call_details, request)


class _UnaryStream(GuardingInterceptor, aio.UnaryStreamClientInterceptor):
    def intercept_unary_stream(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Guard one call; called by grpcio, which awaits what this returns."""
        permit = self._guard.admit(client_call_details, False)
        if type(permit) is tuple:
            return stacked.unary_stream(self._guard, _unary_stream, permit, continuation, client_call_details, request)
        return _unary_stream(permit, continuation, client_call_details, request)


class _StreamUnary(GuardingInterceptor, aio.StreamUnaryClientInterceptor):
    def intercept_stream_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Guard one call; called by grpcio, which awaits what this returns."""
        permit = self._guard.admit(client_call_details, False)
        if type(permit) is tuple:
            return stacked.stream_unary(
                self._guard, _stream_unary, permit, continuation, client_call_details, request_iterator
            )
        return _stream_unary(permit, continuation, client_call_details, request_iterator)


class _StreamStream(GuardingInterceptor, aio.StreamStreamClientInterceptor):
    def intercept_stream_stream(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Guard one call; called by grpcio, which awaits what this returns."""
        permit = self._guard.admit(client_call_details, False)
        if type(permit) is tuple:
            return stacked.stream_stream(
                self._guard, _stream_stream, permit, continuation, client_call_details, request_iterator
            )
        return _stream_stream(permit, continuation, client_call_details, request_iterator)


async def _unary_unary(permit: Any, continuation: Callable[[Any, Any], Any], call_details: Any, request: Any) -> Any:
    """Make a call of one request and one answer, or one attempt of it, that has been admitted, or refused."""
    if permit is None:
        return await continuation(call_details, request)
    if isinstance(permit, Rejection):
        return RefusedUnaryUnary(refused_error(permit))
    call = None
    try:
        if type(permit) is not Permit and isinstance(permit, Probe):
            call_details = for_probe(permit, call_details)
            with Probing(permit):
                call = await continuation(call_details, request)
        else:
            call = await continuation(call_details, request)
        await call
    except BaseException as error:
        settle_raised(permit, error, timeout_of(call_details))
        if call is None or (not isinstance(error, grpc.RpcError) and passes_through(error)):
            raise
    else:
        try:
            if permit.policy.plain:
                permit.success()
            else:
                _settle_ended(permit, call, call_details)
        except BaseException as error:  # noqa: BLE001  # pragma: no cover - rule 6; test_interrupted_adapters.py
            give_back(permit)
            report(error, "settling an ended call failed; it is ignored")
    return call  # an error of its own it raises again where the application awaits it


async def _unary_stream(permit: Any, continuation: Callable[[Any, Any], Any], call_details: Any, request: Any) -> Any:
    if isinstance(permit, Rejection):
        return RefusedUnaryStream(refused_error(permit))
    return await _stream(permit, continuation, call_details, request)


async def _stream_unary(permit: Any, continuation: Callable[[Any, Any], Any], call_details: Any, request: Any) -> Any:
    if isinstance(permit, Rejection):
        return RefusedStreamUnary(refused_error(permit))
    return await _stream(permit, continuation, call_details, request)


async def _stream_stream(permit: Any, continuation: Callable[[Any, Any], Any], call_details: Any, request: Any) -> Any:
    if isinstance(permit, Rejection):
        return RefusedStreamStream(refused_error(permit))
    return await _stream(permit, continuation, call_details, request)


async def _stream(permit: Any, continuation: Callable[[Any, Any], Any], call_details: Any, request: Any) -> Any:
    """Make a call that streams, and see to it that its permit is settled."""
    if permit is None:
        return await continuation(call_details, request)
    try:
        if type(permit) is not Permit and isinstance(permit, Probe):
            with Probing(permit):
                call = await continuation(call_details, request)
        else:
            call = await continuation(call_details, request)
    except BaseException as error:
        settle_raised(permit, error, timeout_of(call_details))
        raise
    try:
        _follow(permit, call, call_details)
    except BaseException as error:  # noqa: BLE001 - see rule 6
        give_back(permit)
        report(error, "following a call failed; it is ignored")
    return call


def _follow(permit: Permit, call: Any, call_details: Any) -> None:
    """See to it that the permit is settled when the call ends."""
    if _shown_by_grpcio(call) and getattr(call, "_call", call) is None:  # a bare stream, and no call
        give_back(permit)
        return
    if call.done():
        # An inner interceptor answered by itself. Its call need not call back: grpcio makes one of a bare value that
        # cannot (grpc #40998).
        _settle_ended(permit, call, call_details)
        return

    headers = _Headers(permit)

    def settle_now(ended: Any) -> None:
        _settle_ended(permit, ended, call_details, headers=headers)

    call.add_done_callback(settle_now)
    made = _made_by_interceptors(call)
    beginning = getattr(made, "_call_response", None) or getattr(made, "_preparation", None)
    if beginning is not None:
        beginning.add_done_callback(headers.begun)
    if permit.awaits_answer:
        look = HeaderLook(permit, call, _headers_came)
        loop = asyncio.get_running_loop()
        loop.call_later(GRACE, _look_for_headers, look, loop)


def _look_for_headers(look: HeaderLook, loop: asyncio.AbstractEventLoop) -> None:
    pause = look.again()
    if pause is not None:
        loop.call_later(pause, _look_for_headers, look, loop)


def _headers_came(call: Any) -> bool | None:
    """Whether the headers of a stream have come; `None` once it has ended."""
    if call.done():  # pragma: no cover - rarely does a look meet one that just ended
        return None
    made = getattr(_made_by_interceptors(call), "_cython_call", None)  # the public way is to wait for them
    return getattr(made, "_initial_metadata", None) is not None


class _Headers:
    """When the headers of a call came, by the task that begins it: grpcio keeps that, and it ends with the headers."""

    __slots__ = ("_came", "_permit")

    def __init__(self, permit: Permit) -> None:
        self._permit = permit
        self._came = math.inf

    def begun(self, beginning: asyncio.Task[Any]) -> None:
        """Note that the task has ended.

        One that fails, on metadata it cannot send, raises to the application but leaves the call without an end until
        its channel closes. Then the permit is given back.
        """
        error = None if beginning.cancelled() else beginning.exception()
        self._came = time.monotonic()
        if error is not None and not isinstance(error, grpc.RpcError):
            give_back(self._permit)

    def note_answer(self) -> None:
        """Note, as the call ends, whether its headers stood alone before."""
        if time.monotonic() - self._came >= GRACE:
            self._permit.note_answer()


def _settle_ended(
    permit: Permit, call: Any, call_details: Any, later: _LaterLook | None = None, headers: _Headers | None = None
) -> None:
    """Settle by the status of a call that has ended. Raises only what passes through (see rule 5 of `_rpc.py`).

    `later`: the look that this is, at a call whose write had failed when it ended. `headers`: when its headers came.
    """
    try:
        if headers is not None:
            headers.note_answer()
        code = _now(call.code())
        if code is OK and permit.policy.plain:
            settle(permit, OK)
            return
        if isinstance(_made_by_interceptors(call), RefusedCall):
            give_back(permit)
            return
        words = _now(call.details())
        if write_failed(code, words) and not permit.settled:
            later = later or _LaterLook(permit, call, call_details)
            if later.looks_again():
                return
        if own_cancellation(code, words) and _was_answered(call):
            permit.answered()
        trailing = _now(call.trailing_metadata())
        error = None
        if permit.policy.classify is not None and isinstance(code, grpc.StatusCode):
            error = aio.AioRpcError(code, aio.Metadata(), trailing or aio.Metadata(), words)
        settle(permit, code, words, trailing, timeout_of(call_details), error)
    except BaseException as error:  # noqa: BLE001 - see rule 6
        give_back(permit)
        report_in_callback(error, "settling an ended call failed; it is ignored")


def _was_answered(call: Any) -> bool:
    """Whether the headers of a stream had come when it was cancelled.

    grpcio keeps the task that begins a stream, which ends when they come. It cancels the task, if it still runs, after
    it has called back.
    """
    beginning = getattr(_made_by_interceptors(call), "_preparation", None)
    return beginning is not None and beginning.done() and not beginning.cancelled() and beginning.exception() is None


def _made_by_interceptors(call: Any) -> Any:
    """The call that other interceptors made, inside those that grpcio shows in its place.

    Those are around all that the interceptors of a channel do, with the task that does it, and around a bare stream.
    """
    while _shown_by_grpcio(call):  # pragma: no cover - which of these there are depends on the version of grpcio
        task = getattr(call, "_interceptors_task", None)
        if task is None:
            inner = getattr(call, "_call", None)
        else:
            inner = task.result() if task.done() and not task.cancelled() and task.exception() is None else None
        if inner is None:
            break
        call = inner
    return call


def _shown_by_grpcio(call: Any) -> bool:
    """Whether a call is one that grpcio shows in the place of what interceptors made."""
    return type(call).__module__ == "grpc.aio._interceptor"


class _LaterLook:
    """Settles a call whose status is still to come: some time later, or when its loop is closed before that."""

    __slots__ = ("_call", "_call_details", "_looks", "_permit")

    def __init__(self, permit: Permit, call: Any, call_details: Any) -> None:
        self._permit = permit
        self._call = call
        self._call_details = call_details
        self._looks = iter(_LOOKS)

    def looks_again(self) -> bool:
        """Have the loop, which alone holds this object, call it once more, unless it did often enough, or is gone."""
        loop, pause = _get_running_loop(), next(self._looks, None)
        if loop is None or pause is None:
            return False
        loop.call_later(pause, self)
        return True

    def __call__(self) -> None:
        _settle_ended(self._permit, self._call, self._call_details, later=self)

    def __del__(self) -> None:
        give_back(self._permit)


def _now(coroutine: Any) -> Any:
    """The result of a coroutine that finishes at once; `None` of one that does not."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    coroutine.close()
    return None
