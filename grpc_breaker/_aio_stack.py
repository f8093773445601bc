"""Calls of methods whose policy wants more than the breaker, for `grpc.aio`: deadlines, retries, fallbacks.

1.  What is asked for is done around single attempts, each of which asks the breaker and is made as any other call, see
    `aio.py`. What the parts mean stands in `_stack.py`.
2.  Calls of one request and one answer are tried again. A refusal is never retried: if the first attempt is refused,
    the caller sees the refusal; if a later one is, the retries end, and the caller sees the error of the last attempt
    that was made. No permit is held during a pause, in which a cancelled task or call ends as cancelled.
3.  Such a call has ended when its interceptor returns, so it is answered there, and so is whatever was refused. A call
    of many requests and one answer is running then: it is handed out inside a call of its kind that finds out how it
    ended when it is awaited. Several that wait for it share one finding, and one that is cancelled leaves it to the
    others; cancelling the call, or who awaits it, ends that, too.
4.  A response stream is answered where it was refused, and only there: what it has given cannot be taken back.
5.  A fallback's function may be a coroutine function. Either way it runs on the loop.
"""

# pyright: reportMissingTypeArgument=false
# grpc's classes are generic in their stubs and not at run time.

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Generator
from functools import partial, wraps
from typing import Any, NamedTuple

import grpc
from grpc import aio

from grpc_breaker._aio_calls import (
    AnsweredStreamStream,
    AnsweredStreamUnary,
    AnsweredUnaryStream,
    AnsweredUnaryUnary,
    RefusedCall,
    mark,
)
from grpc_breaker._core.errors import CallRefusedError
from grpc_breaker._core.fallback import Fallback
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.stack import Stack
from grpc_breaker._rpc import OK, Guard, StackedRoute, timeout_of
from grpc_breaker._stack import (
    Answer,
    Attempts,
    Remembered,
    constant,
    first_timeout,
    from_function,
    last_good,
    log_function,
    may_answer,
    messages_of,
    remembered,
    report_function,
    with_lasting_metadata,
    with_timeout,
)

Continuation = Callable[[Any, Any], Any]
Make = Callable[[Any, Continuation, Any, Any], Coroutine[Any, Any, Any]]
"""Makes one attempt, which was admitted or refused, see `aio.py`: (permit, continuation, details, request)."""


Shape = Callable[[Fallback, Answer], Answer | None]


class _Ended(NamedTuple):
    """How an attempt ended: with an error, or with a response."""

    call: Any
    """`None` where an interceptor inside ours raised the error instead of returning a call."""
    error: Any
    response: Any

    def shown(self) -> Any:
        """The call; raises the error where there is none."""
        if self.call is None:
            raise self.error
        return self.call


async def unary_unary(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, request: Any
) -> Any:
    """Make a call of one request and one answer."""
    stack = route[2]
    policy, given = stack.policy, timeout_of(details)
    retry, fallback, answers = policy.retry, policy.fallback, stack.answers
    begun = time.monotonic()
    if retry is not None or fallback is not None:
        details = with_lasting_metadata(details)
    kept = None if answers is None else remembered(answers, stack.method, details, request)

    def attempt(details: Any, timeout: float | None) -> Coroutine[Any, Any, Any]:
        return make(guard.admit_attempt(route, True, timeout), continuation, details, request)

    timeout = first_timeout(policy, given)
    first = attempt(details if timeout is given else with_timeout(details, timeout), timeout)
    if retry is None and fallback is None:
        return await first
    ended = await _end_of(first)
    if retry is not None and ended.error is not None:
        ended = await _retried(attempt, ended, Attempts(stack, policy, details, begun, given), stack)
    if ended.error is None:
        if retry is not None and (budget := stack.budget) is not None:
            budget.success()
        if kept is not None:
            kept.keep(ended.response)
        return ended.call
    if fallback is None:
        return ended.shown()
    answer = await _Wanted(stack, fallback, kept, request).answer(ended.error)
    return ended.shown() if answer is None else AnsweredUnaryUnary(answer)


async def stream_unary(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, requests: Any
) -> Any:
    """Make a call of many requests and one answer: one attempt, because its requests can be sent only once."""
    stack = route[2]
    fallback = stack.policy.fallback
    attempt = _one_attempt(guard, make, route, continuation, details, requests)
    if fallback is None:
        return await attempt
    wanted = _Wanted(stack, fallback, None, None)  # to hold requests would hold what makes them
    call = None
    try:
        call = await attempt
    except grpc.RpcError as error:  # of an interceptor inside ours
        answer = await wanted.answer(error)
        if answer is None:
            raise
        return AnsweredStreamUnary(answer)
    if isinstance(call, RefusedCall):
        answer = await wanted.answer(call.error)
        return call if answer is None else AnsweredStreamUnary(answer)
    return _AnswerableCall(call, wanted) if isinstance(call, aio.StreamUnaryCall) else call


async def unary_stream(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, request: Any
) -> Any:
    """Make a call of one request and many answers: one attempt, because it may have answered before it fails."""
    call = await _one_attempt(guard, make, route, continuation, details, request)
    return await _answered_stream(AnsweredUnaryStream, call, route[2], request)


async def stream_stream(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, requests: Any
) -> Any:
    """The same with many requests."""
    call = await _one_attempt(guard, make, route, continuation, details, requests)
    return await _answered_stream(AnsweredStreamStream, call, route[2], requests)


async def _answered_stream(kind: Any, call: Any, stack: Stack, request: Any) -> Any:
    """A response stream, or what its fallback gives where it was refused."""
    fallback = stack.policy.fallback
    if fallback is None or not isinstance(call, RefusedCall):
        return call
    answer = await _Wanted(stack, fallback, None, request).answer(call.error, messages_of)
    if answer is None:
        return call
    return kind(answer, call.error, partial(report_function, fallback.function))


def _one_attempt(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, request: Any
) -> Coroutine[Any, Any, Any]:
    given = timeout_of(details)
    timeout = first_timeout(route[2].policy, given)
    sent = details if timeout is given else with_timeout(details, timeout)
    return make(guard.admit_attempt(route, False, timeout), continuation, sent, request)


async def _end_of(attempt: Coroutine[Any, Any, Any]) -> _Ended:
    """Make an attempt, and say how it ended."""
    call = None
    try:
        call = await attempt
        return _Ended(call, None, await call)
    except grpc.RpcError as error:
        return _Ended(call, error, None)
    except Exception as error:
        if call is None or passes_through(error):
            raise
        return _Ended(call, error, None)  # its caller sees it, too: an answer that cannot be read, for one


async def _retried(
    attempt: Callable[[Any, float | None], Coroutine[Any, Any, Any]], ended: _Ended, attempts: Attempts, stack: Stack
) -> _Ended:
    """Try a call again while it fails; returns how the last attempt that was made ended."""
    while ended.error is not None and not isinstance(ended.error, CallRefusedError):
        pause = attempts.pause_after(ended.error, time.monotonic())
        if pause is None:
            return ended
        await asyncio.sleep(pause)
        following = attempts.next(time.monotonic())
        if following is None:
            return ended
        again = await _end_of(attempt(*following))
        if isinstance(again.error, CallRefusedError):
            return ended
        stack.count_retry()
        ended = again
    return ended


class _Wanted(NamedTuple):
    """What a caller gets in the place of an error, and to what."""

    stack: Stack
    fallback: Fallback
    kept: Remembered | None
    request: Any

    async def answer(self, error: Any, shape: Shape | None = None) -> Answer | None:
        """The answer to a call that ended with `error`, counted; `None` if its caller gets the error.

        `shape`: makes of it what the call gives, if that is not one message.
        """
        answer = await self._find(error) if may_answer(self.fallback, error) else None
        if answer is not None and shape is not None:
            answer = shape(self.fallback, answer)
        if answer is not None:
            self.stack.count_fallback(answer.kind)
        return answer

    async def _find(self, error: Any) -> Answer | None:
        answer = last_good(self.kept)
        if answer is not None:
            return answer
        function = self.fallback.function
        if function is None:
            return constant(self.fallback)
        try:
            message = function(self.request, error)
            if inspect.isawaitable(message):
                message = await message
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            log_function(function)  # what it waited for was cancelled, and not the call
            return None
        except BaseException as raised:  # noqa: BLE001 - a user's function must not break a user's call
            report_function(function, raised)
            return None
        return from_function(self.fallback, message)


def _is_being_cancelled() -> bool:
    """Whether this task has been cancelled, and not only something that it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _AnswerableCall(aio.StreamUnaryCall):
    """A running call of many requests and one answer, whose error may be answered by a fallback.

    What waits is a function of this module and no method: older channels, as they close, look at the tasks that wait in
    a call's own methods, and do not know this class.
    """

    def __init__(self, call: Any, wanted: _Wanted) -> None:
        self._call = call
        self._wanted = wanted
        self._finding: asyncio.Task[Answer | None] | None = None

    def __repr__(self) -> str:
        return repr(self._call)

    @property
    def _done_writing_flag(self) -> bool:
        flag: bool = self._call._done_writing_flag  # noqa: SLF001 - grpcio asks the calls of interceptors for it
        return flag

    def answer_to(self, error: Any) -> asyncio.Task[Answer | None]:
        """Find out, once, what a fallback answers."""
        if self._finding is None:
            self._finding = asyncio.ensure_future(self._wanted.answer(error))
        return self._finding

    def stop_finding(self) -> bool:
        """Cancel that; false if it is not under way."""
        return self._finding is not None and self._finding.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        return _response(self, self._call).__await__()

    def code(self) -> Any:
        return _fact(self, self._call, "code", lambda answer: OK)  # noqa: ARG005 - answered is answered

    def details(self) -> Any:
        return _fact(self, self._call, "details", lambda answer: "")  # noqa: ARG005

    def trailing_metadata(self) -> Any:
        """Says where the answer comes from, if a fallback answered."""
        return _fact(self, self._call, "trailing_metadata", mark)

    def debug_error_string(self) -> Any:
        return _fact(self, self._call, "debug_error_string", lambda answer: "")  # noqa: ARG005

    def initial_metadata(self) -> Any:
        return self._call.initial_metadata()

    def wait_for_connection(self) -> Any:
        return self._call.wait_for_connection()

    def cancel(self) -> bool:
        cancelled: bool = self._call.cancel()
        return cancelled or self.stop_finding()

    def cancelled(self) -> bool:
        cancelled: bool = self._call.cancelled()
        return cancelled

    def done(self) -> bool:
        done: bool = self._call.done()
        return done

    def time_remaining(self) -> Any:
        return self._call.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        @wraps(callback)  # where one raises, the loop logs its name
        def call_back(_: Any) -> None:
            callback(self)

        self._call.add_done_callback(call_back)

    def write(self, request: Any) -> Any:
        return self._call.write(request)

    def done_writing(self) -> Any:
        return self._call.done_writing()


async def _response(answerable: _AnswerableCall, call: Any) -> Any:
    """What a call of one answer gives to who awaits it."""
    try:
        return await call
    except grpc.RpcError as error:
        finding = answerable.answer_to(error)
        try:
            answer = None if finding.cancelled() else await asyncio.shield(finding)
        except asyncio.CancelledError:
            answerable.stop_finding()
            raise
        if answer is None:
            raise
        return answer.message


async def _fact(answerable: _AnswerableCall, call: Any, name: str, of: Callable[[Answer], Any]) -> Any:
    """What a call says of its end, or what is said of the answer in its place."""
    code = await call.code()
    if code is not OK and not call.cancelled():
        try:
            await call
        except grpc.RpcError as error:
            finding = answerable.answer_to(error)
            try:
                answer = None if finding.cancelled() else await asyncio.shield(finding)
            except asyncio.CancelledError:
                if _is_being_cancelled():
                    raise
                answer = None  # who awaited the call has ended that: then its own end counts
            if answer is not None:
                return of(answer)
    return code if name == "code" else await getattr(call, name)()
