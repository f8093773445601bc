"""Calls of methods whose policy wants more than the breaker, for `grpc`: deadlines, retries, fallbacks.

1.  What is asked for is done around single attempts, each of which asks the breaker and is made as any other call, see
    `_sync.py`. What the parts mean stands in `_stack.py`.
2.  A call that blocks is tried again; a call that runs is not, because its caller does not wait. Which one it is, is
    told by what grpcio returns: `.future()` returns a running call even where it has ended already.
3.  A refusal is never retried. If the first attempt is refused, the caller sees the refusal; if a later one is, the
    retries end, and the caller sees the error of the last attempt that was made.
4.  No permit is held during a pause, and what a signal handler raises there reaches the caller.
5.  A blocking call that failed is answered at once. A call that runs, or was refused, is handed out inside an object
    that is a `grpc.Call` and a `grpc.Future`, too, if its policy has answers to its errors. That finds out how the call
    ended when it is asked. So a user's function runs on the thread of who asks, and never on the channel's, where it
    would stall the other calls. Who drops that object drops the call, which grpcio then cancels at the server.
6.  A response stream is answered where it was refused, and only there: what it has given cannot be taken back.
"""

# pyright: reportMissingTypeArgument=false
# grpc's classes are generic in their stubs and not at run time.

from __future__ import annotations

import inspect
import time
import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol

import grpc

from grpc_breaker._core.callables import name_of
from grpc_breaker._core.errors import CallRefusedError
from grpc_breaker._core.fallback import REFUSED, Fallback
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.stack import Stack
from grpc_breaker._rpc import OK, Guard, StackedRoute, give_back, report, report_in_callback, timeout_of
from grpc_breaker._stack import (
    ANSWERED_BY,
    Answer,
    Attempts,
    Remembered,
    constant,
    first_timeout,
    from_function,
    last_good,
    may_answer,
    messages_of,
    remembered,
    report_function,
    report_no_answer,
    with_lasting_metadata,
    with_timeout,
)

_ENDED_WELL: Final[Any] = getattr(import_module("grpc._interceptor"), "_UnaryOutcome", None)
_RAISED: Final[Any] = getattr(import_module("grpc._interceptor"), "_FailureOutcome", ())
_RUNNING: Final[Any] = getattr(import_module("grpc._channel"), "_Rendezvous", ())
"""What grpcio makes of a call that ended with OK, of one in which an interceptor raised, and of one that runs."""

Continuation = Callable[[Any, Any], Any]


class Make(Protocol):
    """Makes one attempt, which was admitted or refused, see `_sync.py`."""

    def __call__(self, permit: Any, continuation: Continuation, call_details: Any, request: Any, /) -> Any: ...


def unary_unary(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, request: Any
) -> Any:
    """Make a call of one request and one answer."""
    stack = route[2]
    policy, given = stack.policy, timeout_of(details)
    retry, fallback, answers = policy.retry, policy.fallback, stack.answers
    begun = 0.0 if retry is None else time.monotonic()
    if retry is not None or fallback is not None:
        details = with_lasting_metadata(details)
    kept = None if answers is None else remembered(answers, stack.method, details, request)
    timeout = first_timeout(policy, given)
    permit = guard.admit_attempt(route, True, timeout)
    if isinstance(permit, Rejection):
        call = make(permit, continuation, details, request)
        return call if fallback is None else _answerable(call, _Wanted(stack, fallback, kept, request))
    try:
        sent = details if timeout is given else with_timeout(details, timeout)
    except BaseException:  # of another interceptor's details
        if permit is not None:
            give_back(permit)
        raise
    call = make(permit, continuation, sent, request)
    if retry is not None and _has_failed(call):

        def attempt(details: Any, timeout: float | None) -> Any:
            return make(guard.admit_attempt(route, True, timeout), continuation, details, request)

        call = _retried(attempt, call, Attempts(stack, policy, details, begun, given), stack)
    if type(call) is _ENDED_WELL:
        if retry is not None and (budget := stack.budget) is not None:
            budget.success()
        if kept is not None:
            kept.keep(call.result())
        return call
    return call if fallback is None else _answerable(call, _Wanted(stack, fallback, kept, request))


def stream_unary(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, requests: Any
) -> Any:
    """Make a call of many requests and one answer: one attempt, because its requests can be sent only once."""
    call = _one_attempt(guard, make, route, continuation, details, requests)
    stack = route[2]
    fallback = stack.policy.fallback
    if fallback is None or type(call) is _ENDED_WELL:
        return call
    return _answerable(call, _Wanted(stack, fallback, None, None))  # to hold requests would hold what makes them


def response_stream(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, request: Any
) -> Any:
    """Make a call of many answers: one attempt, because it may have answered before it fails."""
    call = _one_attempt(guard, make, route, continuation, details, request)
    stack = route[2]
    fallback = stack.policy.fallback
    if fallback is None or not isinstance(call, CallRefusedError) or not may_answer(fallback, call):
        return call
    return _RefusedStream(call, _Wanted(stack, fallback, None, request))


def _one_attempt(
    guard: Guard, make: Make, route: StackedRoute, continuation: Continuation, details: Any, request: Any
) -> Any:
    given = timeout_of(details)
    timeout = first_timeout(route[2].policy, given)
    sent = details if timeout is given else with_timeout(details, timeout)
    return make(guard.admit_attempt(route, False, timeout), continuation, sent, request)


def _retried(attempt: Callable[[Any, float | None], Any], call: Any, attempts: Attempts, stack: Stack) -> Any:
    """Try a failed call again; returns the last attempt that was made."""
    while (pause := attempts.pause_after(call, time.monotonic())) is not None:
        time.sleep(pause)
        following = attempts.next(time.monotonic())
        if following is None:
            break
        again = attempt(*following)
        if isinstance(again, CallRefusedError):
            break
        stack.count_retry()
        call = again
        if not _has_failed(call):
            break
    return call


def _has_failed(call: Any) -> bool:
    """Whether a call is one that blocked its caller, and failed; a refusal is not, nor what an interceptor raised."""
    return isinstance(call, grpc.RpcError) and not isinstance(call, (CallRefusedError, _RUNNING, _RAISED))


class _Wanted(NamedTuple):
    """What a caller gets in the place of an error, and to what."""

    stack: Stack
    fallback: Fallback
    kept: Remembered | None
    request: Any

    def answer(self, error: Any) -> Answer | None:
        """The answer to a call that ended with `error`; `None` if its caller gets the error."""
        if not may_answer(self.fallback, error):
            return None
        answer = last_good(self.kept)
        if answer is not None:
            return answer
        function = self.fallback.function
        if function is None:
            return constant(self.fallback)
        try:
            message = function(self.request, error)
        except BaseException as raised:  # noqa: BLE001 - a user's function must not break a user's call
            report_function(function, raised)
            return None
        if not inspect.isawaitable(message):
            return from_function(self.fallback, message)
        if inspect.iscoroutine(message):
            message.close()
        report_no_answer(f"fallback function {name_of(function)} has to be awaited, which asyncio channels can do")
        return None


def _answerable(call: Any, wanted: _Wanted) -> Any:
    """What a caller gets of a call of one answer that has not ended well."""
    if isinstance(call, CallRefusedError):
        return _AnswerableCall(call, wanted) if may_answer(wanted.fallback, call) else call
    if _has_failed(call):
        answer = wanted.answer(call)
        if answer is None:
            return call
        wanted.stack.count_fallback(answer.kind)
        return _AnsweredCall(answer)
    if isinstance(call, _RAISED) or not hasattr(call, "add_done_callback"):
        return call
    if wanted.kept is None and wanted.fallback.when == (REFUSED,):
        return call
    answerable = _AnswerableCall(call, wanted)
    if wanted.kept is not None:
        answerable.keep_when_done(wanted.kept)
    return answerable


class _Marked(NamedTuple):
    """A pair of metadata, as grpcio's are."""

    key: str
    value: str


class _AnsweredCall(grpc.Call, grpc.Future):
    """A call that has failed and was answered by a fallback."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __repr__(self) -> str:
        return f"<call answered by a fallback: {self._answer.kind}>"

    def code(self) -> grpc.StatusCode:
        return OK

    def details(self) -> str:
        return ""

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[_Marked]:
        """Says where the answer comes from."""
        return (_Marked(ANSWERED_BY, self._answer.kind),)

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> Any:
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:  # noqa: ARG002 - gRPC's signature
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - gRPC's signature
        return self._answer.message

    def exception(self, timeout: float | None = None) -> None:  # noqa: ARG002 - gRPC's signature
        return None

    def traceback(self, timeout: float | None = None) -> None:  # noqa: ARG002 - gRPC's signature
        return None

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)


class _AnswerableCall(grpc.Call, grpc.Future):
    """A call of one answer that runs, or was refused, and whose error may be answered by a fallback.

    Whether it is, is found out once, by the first who asks. Where two ask at the same moment, both may find out, and
    what the first found counts.
    """

    def __init__(self, call: Any, wanted: _Wanted) -> None:
        self._call = call
        self._wanted = wanted
        self._found: dict[str, Answer | None] = {}
        self._given: dict[str, bool] = {}
        """Not empty once the answer was kept and is the caller's."""

    def __repr__(self) -> str:
        return repr(self._call)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._call, name)

    @property
    def _state(self) -> Any:
        """What grpcio keeps of the call: by it another breaker around this one settles, and no function runs there."""
        return getattr(self._call, "_state", None)

    def keep_when_done(self, kept: Remembered) -> None:
        """Keep the call's answer, should it get one, and its caller not have dropped it by then."""
        try:
            call, given = self._call, self._given
            held = weakref.ref(call)
            if not call.add_callback(lambda: _keep_answer_of(held(), kept, given)):
                _keep_answer_of(call, kept, given)
        except Exception as error:  # noqa: BLE001 - see rule 5 of `_stack.py`
            report(error, "following a call failed; its answer is not kept")

    def _answer_to(self, error: Any) -> Answer | None:
        """The answer in the place of an error."""
        found = self._found
        if not found:
            answer = self._wanted.answer(error)
            if found.setdefault("answer", answer) is answer and answer is not None:
                self._wanted.stack.count_fallback(answer.kind)
        return found["answer"]

    def _answer(self) -> Answer | None:
        """The answer of a fallback, once the call has ended; `None` if the call's own end counts."""
        try:
            error = self._call.exception()
        except grpc.FutureCancelledError:
            return None
        return None if error is None else self._answer_to(error)

    def code(self) -> Any:
        return self._call.code() if self._answer() is None else OK

    def details(self) -> Any:
        return self._call.details() if self._answer() is None else ""

    def initial_metadata(self) -> Any:
        return self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        """Says where the answer comes from, if a fallback answered."""
        answer = self._answer()
        return self._call.trailing_metadata() if answer is None else (_Marked(ANSWERED_BY, answer.kind),)

    def is_active(self) -> bool:
        active: bool = self._call.is_active()
        return active

    def time_remaining(self) -> Any:
        return self._call.time_remaining()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        added: bool = self._call.add_callback(callback)
        return added

    def cancel(self) -> bool:
        cancelled: bool = self._call.cancel()
        return cancelled

    def cancelled(self) -> bool:
        cancelled: bool = self._call.cancelled()
        return cancelled

    def running(self) -> bool:
        running: bool = self._call.running()
        return running

    def done(self) -> bool:
        done: bool = self._call.done()
        return done

    def result(self, timeout: float | None = None) -> Any:
        """The call's answer, or the fallback's; raises the call's error if there is neither."""
        error = self._call.exception(timeout)
        answer = None if error is None else self._answer_to(error)
        if answer is not None:
            return answer.message
        message = self._call.result(timeout)
        if self._wanted.kept is not None and not self._given:
            self._wanted.kept.keep(message)
            self._given["given"] = True
        return message

    def exception(self, timeout: float | None = None) -> Any:
        error = self._call.exception(timeout)
        return None if error is None or self._answer_to(error) is not None else error

    def traceback(self, timeout: float | None = None) -> Any:
        return None if self.exception(timeout) is None else self._call.traceback(timeout)

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        @wraps(fn)  # where one raises, grpcio logs its name
        def call_back(_: Any) -> None:
            fn(self)

        self._call.add_done_callback(call_back)


def _keep_answer_of(call: Any, kept: Remembered, given: dict[str, bool]) -> None:
    """Keep the answer of a call that has ended, if it ended well. Runs on the thread of the channel."""
    try:
        if call is not None and call.code() is OK:
            kept.keep(call.result(), given)
    except BaseException as error:  # noqa: BLE001 - see rule 5 of `_stack.py`
        report_in_callback(error, "keeping the answer of a call failed")


class _RefusedStream(grpc.Call):
    """A refused response stream whose messages come from a fallback, if that has any."""

    def __init__(self, refused: Any, wanted: _Wanted) -> None:
        self._refused = refused
        self._wanted = wanted
        self._answer: Answer | None = None
        self._asked = False

    def __repr__(self) -> str:
        return repr(self._refused)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._refused, name)

    def _answered(self) -> Answer | None:
        """The messages, if there are any; asks the fallback the first time."""
        if not self._asked:
            answer = self._wanted.answer(self._refused)
            self._answer = None if answer is None else messages_of(self._wanted.fallback, answer)
            self._asked = True
            if self._answer is not None:
                self._wanted.stack.count_fallback(self._answer.kind)
        return self._answer

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        answer = self._answered()
        if answer is not None:
            try:
                return next(answer.message)
            except StopIteration:
                raise
            except BaseException as raised:  # noqa: BLE001 - of a generator, which is a user's function, too
                self._answer = None
                report_function(self._wanted.fallback.function, raised)
        return next(self._refused)

    def next(self) -> Any:
        """The next message, as every stream of grpcio has it."""
        return next(self)

    def code(self) -> Any:
        return self._refused.code() if self._answered() is None else OK

    def details(self) -> Any:
        return self._refused.details() if self._answered() is None else ""

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[Any, ...]:
        """Says where the messages come from."""
        answer = self._answered()
        return () if answer is None else (_Marked(ANSWERED_BY, answer.kind),)

    def is_active(self) -> bool:
        active: bool = self._refused.is_active()
        return active

    def time_remaining(self) -> Any:
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        added: bool = self._refused.add_callback(callback)
        return added

    def cancel(self) -> bool:
        return False
