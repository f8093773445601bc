"""The errors that a refused caller meets: one family, a type for each reason.

A fresh one for every refusal: an instance that is raised again and again grows its traceback for ever (Polly #1877).
The refusals of RPCs are subclasses that are gRPC errors too; see `grpc_breaker/_sync.py` and `aio.py`. They have the
name and module of the class here, so that tracebacks and logs show the name that is documented.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Self, cast

from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.state import Reason, RefusalReason, State


class CallRefusedError(Exception):
    """The call was refused on this side; the server was not asked.

    The base of `CircuitOpenError`, `BulkheadFullError`, `RateLimitedError` and `ThrottledError`.

    Refused RPCs raise a subclass that is also a `grpc.RpcError` (in asyncio a `grpc.aio.AioRpcError`), so existing
    `except grpc.RpcError` clauses keep working. Outside gRPC it is an `Exception` and no `grpc.RpcError`, with the same
    attributes. Every refusal is an object of its own. It pickles; where it is passed on as JSON (Celery's results), its
    words are left, and no attribute below.

    Attributes:
        method: The refused method, "pricing.v1.Pricing/GetPrice"; empty outside gRPC.
        breaker: Name of the breaker that refused, or whose limit did: the method, or the policy's group, and its
            target.
        target: The target that the interceptor was told, "eu"; empty without one.
        reason: What refused it: `breaker`, `bulkhead`, `rate` or `throttle`.
        state: The state of the breaker.
        condition: Which condition had opened the breaker; `None` where a limit refused the call.
        retry_after: Seconds until a call may pass: above 0 when the breaker is open, and at a rate limit; 0 where a
            call may pass at any moment; `None` when only an operator can end it.
    """

    __module__ = "grpc_breaker"

    args: tuple[Any, ...]

    @classmethod
    def find(cls, error: BaseException | None) -> Self | None:
        """The refusal behind an exception: the exception itself, or the nearest one that it was made from.

        Clients that translate gRPC's errors hide the refusal: Google's raise a `ServiceUnavailable` from it, which
        `except CircuitOpenError` does not match. Looked through are what a traceback shows (`__cause__`, or else
        `__context__`), the members of exception groups, and the `errors` of Google's exceptions.

        Args:
            error: Any exception, or `None`.

        Returns:
            The nearest refusal of this class: `CallRefusedError.find` finds all kinds. `None` if there is none.
        """
        waiting: deque[object] = deque([error])
        seen: set[int] = set()
        while waiting:
            found = waiting.popleft()
            if isinstance(found, cls):
                return found
            if not isinstance(found, BaseException) or id(found) in seen:
                continue
            seen.add(id(found))
            waiting.append(found.__cause__ or (None if found.__suppress_context__ else found.__context__))
            for name in ("exceptions", "errors"):
                members = getattr(found, name, None)
                if isinstance(members, list | tuple):
                    waiting.extend(cast("list[object]", members))
        return None

    @property
    def _rejection(self) -> Rejection:
        # Kept where the interpreter itself puts it: an error made for every refusal should cost no more than it must.
        rejection = self.args[0] if self.args else None
        if not isinstance(rejection, Rejection):
            message = "this refusal was made from its words alone"
            raise AttributeError(message)  # noqa: TRY004 - as of an attribute that is not there
        return rejection

    @property
    def method(self) -> str:
        return self._rejection.method

    @property
    def breaker(self) -> str:
        return self._rejection.breaker

    @property
    def target(self) -> str:
        return self._rejection.target

    @property
    def reason(self) -> RefusalReason:
        return self._rejection.reason

    @property
    def state(self) -> State:
        return self._rejection.state

    @property
    def condition(self) -> Reason | None:
        return self._rejection.condition

    @property
    def retry_after(self) -> float | None:
        return self._rejection.retry_after

    def code(self) -> Any:
        """The `grpc.StatusCode` that a refused RPC shows; `None` outside gRPC."""
        return None

    def details(self) -> str:
        """The refusal in words, with the seconds until a call may pass."""
        words = self.args[0] if self.args else ""
        return words.details if isinstance(words, Rejection) else str(words)

    def __str__(self) -> str:
        return self.details()


class CircuitOpenError(CallRefusedError):
    """The breaker refused the call; the server was not asked.

    A `CallRefusedError`, which says what its attributes are. Its `code()` is UNAVAILABLE unless
    `BreakerPolicy.refusal_code` says otherwise.
    """

    __module__ = "grpc_breaker"


class BulkheadFullError(CallRefusedError):
    """As many calls were in flight as `MethodPolicy.max_concurrent_calls` allows. Its `code()` is UNAVAILABLE."""

    __module__ = "grpc_breaker"


class RateLimitedError(CallRefusedError):
    """`MethodPolicy.rate_limit` was reached. Its `code()` is RESOURCE_EXHAUSTED."""

    __module__ = "grpc_breaker"


class ThrottledError(CallRefusedError):
    """`MethodPolicy.throttle` refused the call, because of the last ones the server answered too few.

    Its `code()` is UNAVAILABLE.
    """

    __module__ = "grpc_breaker"


_ERRORS: Final[dict[RefusalReason, type[CallRefusedError]]] = {
    RefusalReason.BREAKER: CircuitOpenError,
    RefusalReason.BULKHEAD: BulkheadFullError,
    RefusalReason.RATE: RateLimitedError,
    RefusalReason.THROTTLE: ThrottledError,
}


def refusal_of(rejection: Rejection) -> CallRefusedError:
    """The error of a call that was refused outside gRPC."""
    return _ERRORS[rejection.reason](rejection)
