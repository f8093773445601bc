"""The one error a refused caller meets.

A fresh one for every refusal: an instance that is raised again and again grows its traceback for ever (Polly #1877).
The refusals of RPCs are subclasses of it that are gRPC errors too; see `grpc_breaker/_sync.py` and `aio.py`. They have
its name and module, so that tracebacks and logs show the name that is documented.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from grpc_breaker._core.events import Rejection
from grpc_breaker._core.state import Reason, State


class CircuitOpenError(Exception):
    """The breaker refused the call; the server was not asked.

    Refused RPCs raise a subclass that is also a `grpc.RpcError` (in asyncio a `grpc.aio.AioRpcError`), so existing
    `except grpc.RpcError` clauses keep working. Outside gRPC it is an `Exception` and no `grpc.RpcError`, with the same
    attributes. Every refusal is an object of its own. It pickles; where it is passed on as JSON (Celery's results), its
    words are left, and no attribute below.

    Attributes:
        method: The refused method, "pricing.v1.Pricing/GetPrice"; empty outside gRPC.
        breaker: Name of the breaker that refused: the method, or the policy's group, and its target.
        target: The target that the interceptor was told, "eu"; empty without one.
        state: `open`, `half_open` or `forced_open`.
        retry_after: Seconds until a call may pass: above 0 when open, 0 when half-open (a slot may be free at any
            moment), `None` when only an operator can end it.
        reason: Which condition had opened the breaker.
    """

    __module__ = "grpc_breaker"

    args: tuple[Any, ...]

    @staticmethod
    def find(error: BaseException | None) -> CircuitOpenError | None:
        """The refusal behind an exception: the exception itself, or the nearest one that it was made from.

        Clients that translate gRPC's errors hide the refusal: Google's raise a `ServiceUnavailable` from it, which
        `except CircuitOpenError` does not match. Looked through are what a traceback shows (`__cause__`, or else
        `__context__`), the members of exception groups, and the `errors` of Google's exceptions.

        Args:
            error: Any exception, or `None`.

        Returns:
            The refusal; `None` if there is none.
        """
        waiting: deque[object] = deque([error])
        seen: set[int] = set()
        while waiting:
            found = waiting.popleft()
            if isinstance(found, CircuitOpenError):
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
    def state(self) -> State:
        return self._rejection.state

    @property
    def retry_after(self) -> float | None:
        return self._rejection.retry_after

    @property
    def reason(self) -> Reason:
        return self._rejection.reason

    def code(self) -> Any:
        """The `grpc.StatusCode` a refused RPC shows, UNAVAILABLE unless the policy says otherwise; else `None`."""
        return None

    def details(self) -> str:
        """The refusal in words, with the seconds to the next probe."""
        words = self.args[0] if self.args else ""
        return words.details if isinstance(words, Rejection) else str(words)

    def __str__(self) -> str:
        return self.details()
