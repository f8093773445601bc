"""Guarding a piece of plain code in one step: `with breaker:`, `async with breaker:` and `@breaker`.

Made of the two steps of `breaker.py` and nothing else. Every `Exception` is a failure unless `policy.classify` says
otherwise; `KeyboardInterrupt`, cancellation and the refusal of another breaker are always ignored. User code, the
classifier included, runs outside every lock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from grpc_breaker._core.callables import is_coroutine_function, is_generator_function, name_of
from grpc_breaker._core.errors import CircuitOpenError
from grpc_breaker._core.events import EndedCall
from grpc_breaker._core.policy import BreakerPolicy, classified
from grpc_breaker._core.state import Outcome

if TYPE_CHECKING:
    from grpc_breaker._core.breaker import Permit

P = ParamSpec("P")
R = TypeVar("R")

_entered: ContextVar[Any] = ContextVar("grpc_breaker_entered", default=None)
"""The `with` blocks this context is in, innermost first: (permit, the rest). It may name blocks that have ended."""


class OneStep(ABC):
    """The part of a breaker that guards code in one step."""

    __slots__ = ("_entered",)

    _policy: BreakerPolicy

    def __init__(self) -> None:
        self._entered: dict[Permit, bool] = {}
        """The `with` blocks that have not ended, the oldest first, and whether each one's end will be its own."""

    @abstractmethod
    def admit(self) -> Permit:
        """Ask to make a call."""

    def __enter__(self) -> Self:
        permit = self.admit()
        self._entered[permit] = True
        outer = _entered.get()
        while outer is not None and outer[0] not in outer[0].breaker._entered:
            outer = outer[1]  # ended in another context, which could not take it from this one
        _entered.set((permit, outer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permit, certain = self._leave()
        if certain:
            self._conclude(permit, error)
        else:
            permit.ignore()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Guard every call of a function or coroutine function.

        Raises:
            TypeError: `function` is a generator function: calling one does nothing yet, so there is no result to
                count; guard the loop over it with `with breaker:`.
        """
        if is_generator_function(function):
            message = (
                f"a breaker cannot decorate the generator function {name_of(function)}; use 'with breaker:' inside"
            )
            raise TypeError(message)
        if not callable(function):
            message = f"a breaker decorates a function or a coroutine function, got {function!r}"
            raise TypeError(message)
        if is_coroutine_function(function):

            @wraps(function)
            async def guarded_coroutine(*args: P.args, **kwargs: P.kwargs) -> Any:
                permit = self.admit()
                try:
                    result = await cast("Awaitable[R]", function(*args, **kwargs))
                except BaseException as error:
                    self._conclude(permit, error)
                    raise
                self._conclude(permit, None)
                return result

            return cast("Callable[P, R]", guarded_coroutine)

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            permit = self.admit()
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                self._conclude(permit, error)
                raise
            self._conclude(permit, None)
            return result

        return guarded

    def _leave(self) -> tuple[Permit, bool]:
        """The permit of the `with` block that ends here, and whether that is certain enough to count its result.

        The block that was entered last in this context is the one that ends. A block that ends in another context than
        it began in (an asynchronous generator's, a test fixture's) finds none there; then the oldest one is as good.

        Generators interleave in one context, so either may be another's permit. That matters where one of them is
        stale: its result must not become that of a probe. Then the stale one goes first, and the others, too, are
        ignored when they end.
        """
        here: list[Permit] = []
        stack = _entered.get()
        while stack is not None:
            permit, stack = stack
            if permit in self._entered:
                here.append(permit)
        candidates = here or list(self._entered)
        if not candidates:
            message = f"{self!r}: a 'with' block ends that never began"
            raise RuntimeError(message)
        found = candidates[0]
        if len({permit.generation for permit in candidates}) > 1:
            found = min(candidates, key=lambda permit: permit.generation)
            for permit in candidates:
                self._entered[permit] = False
        return found, self._entered.pop(found)

    def _conclude(self, permit: Permit, error: BaseException | None) -> None:
        """Settle the permit of plain code that ended with `error`, or without one."""
        classify = self._policy.classify
        if error is None and classify is None:
            permit.settle(Outcome.SUCCESS)
            return
        if error is None:
            outcome, status, details = Outcome.SUCCESS, "", ""
        else:
            ours = isinstance(error, Exception) and not isinstance(error, CircuitOpenError)
            outcome = Outcome.FAILURE if ours else Outcome.IGNORED
            status, details = type(error).__name__, _words(error)
        if classify is not None and outcome is not Outcome.IGNORED:
            ended = EndedCall(
                method=permit.method,
                code=None,
                details=details,
                trailing_metadata=(),
                elapsed=permit.elapsed,
                timeout=None,
                error=error,
            )
            outcome = classified(classify, ended, outcome)
        permit.settle(outcome, status, details)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error that cannot be printed is still an error
        return "(no words: its __str__ raised)"
