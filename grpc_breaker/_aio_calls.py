"""Asyncio calls that have ended as they are made: what is refused, and what a fallback has answered.

They are calls of the kinds that grpcio knows, and returned rather than raised, so that the interceptors around ours see
a call. A bare message would do for some kinds alone, and keep a channel from closing.
"""

# pyright: reportMissingTypeArgument=false
# grpc's classes are generic in their stubs and not at run time.

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, ClassVar, Final, NoReturn

import grpc
from grpc import aio

from grpc_breaker._core.errors import (
    BulkheadFullError,
    CallRefusedError,
    CircuitOpenError,
    RateLimitedError,
    ThrottledError,
)
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import RefusalReason
from grpc_breaker._rpc import OK, refusal_code, refusal_in_words, shown_as
from grpc_breaker._stack import ANSWERED_BY, Answer

Raised = Callable[[BaseException], None]
"""Takes in what a user's function raised."""

# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class RefusedError(CallRefusedError, aio.AioRpcError):
    """What a refused asyncio call raises: a `CallRefusedError` that is a `grpc.aio.AioRpcError`."""

    def __init__(self, rejection: Rejection, code: grpc.StatusCode) -> None:
        CallRefusedError.__init__(self, rejection)
        words = rejection.details
        self._code = code
        self._details = self._debug_error_string = words
        self._initial_metadata = self._trailing_metadata = aio.Metadata()

    def __reduce__(self) -> tuple[Any, ...]:
        return refused_error, (self._rejection,)

    def __repr__(self) -> str:
        return refusal_in_words(type(self).__name__, self._code, self.details())

    def code(self) -> grpc.StatusCode:
        """UNAVAILABLE, unless the policy says otherwise."""
        return self._code


@shown_as(CircuitOpenError)
class _CircuitOpenError(RefusedError, CircuitOpenError):
    pass


@shown_as(BulkheadFullError)
class _BulkheadFullError(RefusedError, BulkheadFullError):
    pass


@shown_as(RateLimitedError)
class _RateLimitedError(RefusedError, RateLimitedError):
    pass


@shown_as(ThrottledError)
class _ThrottledError(RefusedError, ThrottledError):
    pass


_ERRORS: Final[dict[RefusalReason, type[RefusedError]]] = {
    RefusalReason.BREAKER: _CircuitOpenError,
    RefusalReason.BULKHEAD: _BulkheadFullError,
    RefusalReason.RATE: _RateLimitedError,
    RefusalReason.THROTTLE: _ThrottledError,
}


def refused_error(rejection: Rejection) -> RefusedError:
    """The error of a refused call, also one that was pickled or copied."""
    return _ERRORS[rejection.reason](rejection, refusal_code(rejection))


# ── Calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _EndedCall:
    """A call that ended before it began."""

    def _why_ended(self) -> str:
        return "RPC already finished."  # grpcio's own words

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None

    def cancel(self) -> bool:
        return False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls `callback` from the loop: a caller must not be called back inside its own call."""
        loop = _get_running_loop()
        if loop is None:
            callback(self)
        else:
            loop.call_soon(callback, self)


class RefusedCall(_EndedCall):
    """A call that was refused."""

    _KIND: ClassVar[str]

    def __init__(self, error: RefusedError) -> None:
        self._error = error

    @property
    def error(self) -> RefusedError:
        """What it raises."""
        return self._error

    def __repr__(self) -> str:
        return refusal_in_words(self._KIND, self._error.code(), self._error.details())

    def _why_ended(self) -> str:
        return self._error.details()

    async def initial_metadata(self) -> aio.Metadata:
        return self._error.initial_metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        return self._error.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        return self._error.code()

    async def details(self) -> str:
        return self._error.details()

    async def debug_error_string(self) -> str:
        return self._error.details()

    async def wait_for_connection(self) -> NoReturn:
        raise self._error


class _RefusedUnaryResponse(RefusedCall):
    def __await__(self) -> Generator[Any, None, NoReturn]:
        raise self._error
        yield  # makes this a generator, as awaiting needs


class _RefusedStreamResponse(RefusedCall):
    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> NoReturn:
        raise self._error

    async def read(self) -> NoReturn:
        raise self._error


class _StreamRequest(_EndedCall):
    """A call whose requests cannot be written, because it has ended."""

    _done_writing_flag = False

    async def write(self, request: Any) -> NoReturn:  # noqa: ARG002 - gRPC's signature
        raise asyncio.InvalidStateError(self._why_ended())

    async def done_writing(self) -> None:
        return None


class RefusedUnaryUnary(_RefusedUnaryResponse, aio.UnaryUnaryCall):
    _KIND = "UnaryUnaryCall"


class RefusedUnaryStream(_RefusedStreamResponse, aio.UnaryStreamCall):
    _KIND = "UnaryStreamCall"


class RefusedStreamUnary(_StreamRequest, _RefusedUnaryResponse, aio.StreamUnaryCall):
    _KIND = "StreamUnaryCall"


class RefusedStreamStream(_StreamRequest, _RefusedStreamResponse, aio.StreamStreamCall):
    _KIND = "StreamStreamCall"


class _AnsweredCall(_EndedCall):
    """A call that has failed, or was refused, and was answered by a fallback."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __repr__(self) -> str:
        return f"<call answered by a fallback: {self._answer.kind}>"

    async def initial_metadata(self) -> aio.Metadata:
        return aio.Metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        """Says where the answer comes from."""
        return mark(self._answer)

    async def code(self) -> grpc.StatusCode:
        return OK

    async def details(self) -> str:
        return ""

    async def debug_error_string(self) -> str:
        return ""

    async def wait_for_connection(self) -> None:
        return None


class _AnsweredUnaryResponse(_AnsweredCall):
    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer.message
        yield  # makes this a generator, as awaiting needs


class _AnsweredStreamResponse(_AnsweredCall):
    """A refused stream whose messages come from a fallback; should a user's generator raise, it ends with its error."""

    def __init__(self, answer: Answer, error: RefusedError, raised: Raised) -> None:
        super().__init__(answer)
        self._error = error
        self._raised = raised

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        try:
            return next(self._answer.message, aio.EOF)
        except BaseException as raised:  # noqa: BLE001 - of a generator, which is a user's function, too
            self._raised(raised)
            raise self._error from None


class AnsweredUnaryUnary(_AnsweredUnaryResponse, aio.UnaryUnaryCall):
    """Of one request and one answer."""


class AnsweredUnaryStream(_AnsweredStreamResponse, aio.UnaryStreamCall):
    """Of one request and many answers."""


class AnsweredStreamUnary(_StreamRequest, _AnsweredUnaryResponse, aio.StreamUnaryCall):
    """Of many requests and one answer."""


class AnsweredStreamStream(_StreamRequest, _AnsweredStreamResponse, aio.StreamStreamCall):
    """Of many requests and many answers."""


def mark(answer: Answer) -> aio.Metadata:
    """The trailing metadata of a call that a fallback has answered."""
    return aio.Metadata((ANSWERED_BY, answer.kind))
