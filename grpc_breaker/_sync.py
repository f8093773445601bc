"""The interceptor for `grpc`: blocking calls, futures and streams.

1.  grpcio returns failed calls, it does not raise them. So what `continuation()` returns is judged by its status: a
    breaker that waits for an exception sees every outage as a success.
2.  What comes back is one of four things, and each settles its permit in its own way:

    what `continuation` returns           how it ends                               settled
    a finished call (blocking)            it has                                    at once, by its status
    a running call (future, stream)       its callback, on the channel's thread     there, by its final status
    a running call that is thrown away    our weak reference to it ends             there; ignored if it had no answer
    a bare iterator                       it runs out, raises, or is closed         there

3.  A running call is handed to the application as it is: no wrapper, so its whole API is there and a stream costs
    nothing per message. Our callback must not hold the call, or cancelling on garbage collection would stop working; it
    holds the call's state, where grpcio keeps the status, and the call only weakly. A call that is no grpcio object,
    and so has no such state, is asked through the weak reference while it lives.
4.  A bare iterator comes from interceptors that wrap streams (OpenTelemetry's, which runs inside ours when it
    instruments channels). It has no call's API to lose, so it is the one thing that is wrapped.
5.  The headers of a stream are an answer, see `_headers.py`. A stream that is thrown away after its headers came had
    one, too: a success.
6.  Errors of our own bookkeeping are logged once, and the call goes on; see rule 5 of `_rpc.py`.
"""

# pyright: reportMissingTypeArgument=false
# grpc's classes are generic in their stubs and not at run time.

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, Final, NoReturn

import grpc

from grpc_breaker import _sync_stack as stacked
from grpc_breaker._callbacks import CallbackThread
from grpc_breaker._core.callables import is_coroutine_function
from grpc_breaker._core.errors import (
    BulkheadFullError,
    CallRefusedError,
    CircuitOpenError,
    RateLimitedError,
    ThrottledError,
)
from grpc_breaker._core.log import log_once
from grpc_breaker._core.permit import Permit, Probe
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import Outcome, RefusalReason
from grpc_breaker._headers import HeaderThread
from grpc_breaker._registry import BreakerRegistry
from grpc_breaker._rpc import (
    OK,
    Guard,
    Probing,
    answered,
    give_back,
    refusal_code,
    refusal_in_words,
    report,
    report_in_callback,
    settle,
    settle_raised,
    shown_as,
    timeout_of,
)
from grpc_breaker._stack import for_probe
from grpc_breaker.telemetry import BreakerTelemetry, attach

_SUCCESS: Final = Outcome.SUCCESS
_ENDED_WELL: Final[Any] = getattr(import_module("grpc._interceptor"), "_UnaryOutcome", None)
_CALL: Final[Any] = getattr(import_module("grpc._channel"), "_MultiThreadedRendezvous", None)
"""What grpcio makes of a blocking call that ended with OK: the first around the second, whose `code()` takes a lock."""

_THROWN_AWAY: Final = "Cancelled upon garbage collection!"
"""The details of a call that grpcio's finalizer cancels. Unlike `cancel()`, that leaves the metadata of a call without
an answer at `None`."""

_INSTEAD: Final = "channels of grpc.aio take grpc_breaker.aio.interceptors()"
_ON_ASYNCIO_CHANNEL: Final = f"a CircuitBreakerInterceptor is around an asyncio channel, and guards no call; {_INSTEAD}"


class CircuitBreakerInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Guards every call of the channels it is attached to with `grpc.intercept_channel`.

    Covers all four RPC kinds and every way of calling them: `stub.Method(...)`, `.with_call(...)`, `.future(...)`, and
    streams. A refused call shows `CircuitOpenError`, which is a `grpc.RpcError`; an admitted one is untouched, but for
    the bare iterator that some interceptors make of a stream, which is wrapped.

    One interceptor serves any number of channels and threads.
    """

    def __init__(
        self,
        breakers: BreakerRegistry | None = None,
        *,
        target: str | None = None,
        telemetry: bool | BreakerTelemetry = True,
    ) -> None:
        """Make an interceptor.

        Args:
            breakers: The registry to ask. Default: a new one, a breaker with the default policy for each method.
            target: A name for the server that these channels call, where one registry guards channels to several: the
                breakers are then this target's own, "pkg.Service/Method@eu". Default: none.
            telemetry: True for OpenTelemetry's global providers (the default), False for none, or a `BreakerTelemetry`.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: `target` has spaces or an "@" in it.
        """
        self._guard = Guard(breakers, target)
        self._guard.capture_with(attach(self._guard.breakers, telemetry))
        self._callbacks = CallbackThread()

    def __repr__(self) -> str:
        """What it is for: the error of an asyncio channel that was given it shows that."""
        return f"<CircuitBreakerInterceptor for grpc; {_INSTEAD}>"

    @property
    def breakers(self) -> BreakerRegistry:
        """The registry this interceptor asks."""
        return self._guard.breakers

    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Guard one call; called by grpcio."""
        permit = self._guard.admit(client_call_details, True)
        if type(permit) is tuple:
            return stacked.unary_unary(self._guard, self._call, permit, continuation, client_call_details, request)
        return self._call(permit, continuation, client_call_details, request)

    def intercept_unary_stream(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        """Guard one call; called by grpcio."""
        permit = self._guard.admit(client_call_details, False)
        if type(permit) is tuple:
            return stacked.response_stream(self._guard, self._call, permit, continuation, client_call_details, request)
        return self._call(permit, continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Guard one call; called by grpcio."""
        permit = self._guard.admit(client_call_details, False)
        if type(permit) is tuple:
            return stacked.stream_unary(
                self._guard, self._call, permit, continuation, client_call_details, request_iterator
            )
        return self._call(permit, continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Guard one call; called by grpcio."""
        permit = self._guard.admit(client_call_details, False)
        if type(permit) is tuple:
            return stacked.response_stream(
                self._guard, self._call, permit, continuation, client_call_details, request_iterator
            )
        return self._call(permit, continuation, client_call_details, request_iterator)

    def _call(self, permit: Any, continuation: Callable[[Any, Any], Any], call_details: Any, request: Any) -> Any:
        """Make a call, or one attempt of it, that has been admitted, or refused."""
        if permit is None:
            return continuation(call_details, request)
        if isinstance(permit, Rejection):
            return refused_call(permit, refusal_code(permit), self._callbacks)
        try:
            if type(permit) is not Permit and isinstance(permit, Probe):
                call_details = for_probe(permit, call_details)
                with Probing(permit):
                    call = continuation(call_details, request)
            else:
                call = continuation(call_details, request)
        except BaseException as error:
            settle_raised(permit, error, timeout_of(call_details))
            raise
        try:
            if type(call) is _ENDED_WELL and type(call._call) is _CALL and permit.policy.plain:  # noqa: SLF001 - see there
                permit.success()
            elif hasattr(call, "add_callback"):
                _follow(permit, call, call_details)
            elif hasattr(call, "__next__"):
                return _Messages(permit, call, timeout_of(call_details))
            elif is_coroutine_function(getattr(call, "code", None)):  # a stream of an asyncio channel
                give_back(permit)
                log_once(_ON_ASYNCIO_CHANNEL, exc_info=False)
            else:
                _follow(permit, call, call_details)
        except BaseException as error:  # noqa: BLE001 - see rule 6
            give_back(permit)
            report(error, "following a call failed; it is ignored")
        return call


def _follow(permit: Permit, call: Any, call_details: Any) -> None:
    """See to it that the permit is settled when the call ends."""
    if isinstance(call, CallRefusedError):
        permit.ignore()
    elif call.done():
        _settle_finished(permit, call, timeout_of(call_details))
    else:
        follower = _Follower.of(call, permit, timeout_of(call_details))
        if not call.add_callback(follower.settle):
            follower.settle()
            return
        if not permit.timed and (state := getattr(call, "_state", None)) is not None:
            _header_thread.add(permit, state)


def _settle_finished(permit: Permit, call: Any, timeout: float | None) -> None:
    code = call.code()
    if code is OK and permit.policy.plain:
        settle(permit, OK)
        return
    error = call.exception()
    if error is None or error is call:
        settle(permit, code, call.details(), call.trailing_metadata(), timeout, error)
    else:  # an exception of another interceptor, which grpcio dresses up as INTERNAL
        settle_raised(permit, error, timeout)
        if isinstance(error, AttributeError) and error.name == "with_call":  # which calls of asyncio do not have
            error.add_note(_ON_ASYNCIO_CHANNEL)


class _Messages:
    """Hands on the messages of a bare iterator, and settles the permit when it ends or is thrown away."""

    _answered = False
    _messages: Iterator[Any] = iter(())  # until it has its own
    _permit: Permit

    def __init__(self, permit: Permit, messages: Iterator[Any], timeout: float | None) -> None:
        self._permit = permit
        self._messages = messages
        self._timeout = timeout

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            message = next(self._messages)
        except StopIteration:
            settle(self._permit, OK, timeout=self._timeout)
            raise
        except BaseException as error:
            settle_raised(self._permit, error, self._timeout)
            raise
        if not self._answered:
            self._answered = True
            answered(self._permit)
        return message

    def close(self) -> None:
        """Give up the rest, as of a generator."""
        try:
            getattr(self._messages, "close", list)()
        finally:
            give_back(self._permit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._messages, name)

    def __del__(self) -> None:
        if "_permit" in vars(self):  # pragma: no branch - else it was interrupted as it was made
            give_back(self._permit)


class _Follower(weakref.ref[Any]):
    """The weak reference to a running call by which its permit is settled: when the call ends, or is thrown away.

    grpcio drops it once it has called `settle` back. So nothing of ours runs when the application drops a call that has
    ended.
    """

    _done = True  # until it has the rest
    _permit: Permit
    _state: Any
    _timeout: float | None

    @classmethod
    def of(cls, call: Any, permit: Permit, timeout: float | None) -> _Follower:
        """Follow a call. What other interceptors wrap around grpcio's may be thrown away while that runs on."""
        state = getattr(call, "_state", None)
        wraps = state is not None and not type(call).__module__.startswith("grpc.")
        follower = cls(call, None if wraps else _Follower.settle)
        follower._permit, follower._state, follower._timeout = permit, state, timeout
        follower._done = False
        return follower

    def settle(self) -> None:
        """Settle by the final status if there is one; else the call was thrown away, and nothing was learned."""
        if self._done:
            return
        self._done = True
        permit = self._permit
        try:
            if not permit.timed:
                _header_thread.forget(permit)
            state, call = self._state, self()
            if hasattr(state, "code") and hasattr(state, "details"):
                if state.details == _THROWN_AWAY and getattr(state, "initial_metadata", None) is not None:
                    answered(permit)
                trailing = getattr(state, "trailing_metadata", ())
                settle(permit, state.code, state.details, trailing, self._timeout, call)
            elif call is not None:
                settle(permit, call.code(), call.details(), call.trailing_metadata(), self._timeout, call)
            else:
                give_back(permit)
        except BaseException as error:  # noqa: BLE001 - see rule 6
            give_back(permit)
            report_in_callback(error, "settling an ended call failed; it is ignored")

    def __del__(self) -> None:
        self.settle()


def _headers_came(state: Any) -> bool | None:
    """Whether the headers of a stream have come, by the state that grpcio keeps of it; `None` once it has ended."""
    if getattr(state, "code", None) is not None:  # pragma: no cover - rarely does a look meet one that just ended
        return None
    return getattr(state, "initial_metadata", None) is not None


_header_thread: Final = HeaderThread(_headers_came)


class RefusedCall(CallRefusedError, grpc.RpcError, grpc.Call, grpc.Future):  # noqa: N818 - it is the call, too
    """A refused call: the error, and the call and future and stream that shows it in every idiom.

    Returned rather than raised. What is raised inside an interceptor reaches `.future()` as INTERNAL, and reaches the
    interceptors around us as an object without a call's API.

    It has ended, unless a callback is added before its end was seen: then it ends a moment later, see `_callbacks.py`.
    A blocking call has been raised before anyone can add one; what is added then is called at once, as for every call
    of grpcio that has ended.
    """

    _ends_later = False

    def __init__(self, rejection: Rejection, code: grpc.StatusCode, callbacks: CallbackThread | None = None) -> None:
        super().__init__(rejection)
        self._code = code
        self._callbacks = callbacks  # until its end was seen

    def __reduce__(self) -> tuple[Any, ...]:
        return refused_call, (self._rejection, self._code)

    def __repr__(self) -> str:
        return refusal_in_words(type(self).__name__, self._code, self.details())

    def code(self) -> grpc.StatusCode:
        """UNAVAILABLE, unless the policy says otherwise."""
        return self._code

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def debug_error_string(self) -> str:
        return self.details()

    def is_active(self) -> bool:
        """False, but while a callback waits for its end."""
        return self._ends_later

    def time_remaining(self) -> Any:
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """False if it has ended, as for every such call: the callback will not be called."""
        if self._ends_later and (callbacks := self._callbacks) is not None:
            callbacks.call_later(callback)
            return True
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return self._ends_later

    def done(self) -> bool:
        return not self._ends_later

    def result(self, timeout: float | None = None) -> NoReturn:  # noqa: ARG002 - gRPC's signature
        """Raises the refusal."""
        raise self._ended()

    def exception(self, timeout: float | None = None) -> RefusedCall:  # noqa: ARG002 - gRPC's signature
        """The refusal."""
        return self._ended()

    def traceback(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - gRPC's signature
        return self._ended().__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls `fn` from another thread, or at once if the end of the call was seen."""
        callbacks = self._callbacks
        if callbacks is None:
            fn(self)
        else:
            self._ends_later = True
            callbacks.call_later(partial(self._call_back, fn))

    def _call_back(self, fn: Callable[[Any], None]) -> None:
        self._callbacks = None
        self._ends_later = False
        fn(self)

    def _ended(self) -> RefusedCall:
        """The call itself, once it has ended."""
        if self._ends_later and (callbacks := self._callbacks) is not None:
            callbacks.wait_until(self.done)
        self._callbacks = None
        self._ends_later = False
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> NoReturn:
        raise self._ended()

    def next(self) -> NoReturn:
        """Raises the refusal, as every call of grpcio has it."""
        raise self._ended()


@shown_as(CircuitOpenError)
class _CircuitOpenError(RefusedCall, CircuitOpenError):
    pass


@shown_as(BulkheadFullError)
class _BulkheadFullError(RefusedCall, BulkheadFullError):
    pass


@shown_as(RateLimitedError)
class _RateLimitedError(RefusedCall, RateLimitedError):
    pass


@shown_as(ThrottledError)
class _ThrottledError(RefusedCall, ThrottledError):
    pass


_REFUSED: Final[dict[RefusalReason, type[RefusedCall]]] = {
    RefusalReason.BREAKER: _CircuitOpenError,
    RefusalReason.BULKHEAD: _BulkheadFullError,
    RefusalReason.RATE: _RateLimitedError,
    RefusalReason.THROTTLE: _ThrottledError,
}


def refused_call(rejection: Rejection, code: grpc.StatusCode, callbacks: CallbackThread | None = None) -> RefusedCall:
    """A refused call. Without `callbacks`, as of one that was pickled or copied, its end has been seen."""
    return _REFUSED[rejection.reason](rejection, code, callbacks)
