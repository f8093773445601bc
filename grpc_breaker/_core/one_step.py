"""Guarding a piece of plain code in one step: `with breaker:`, `async with breaker:` and `@breaker`.

Made of the two steps of `breaker.py` and nothing else. Every `Exception` is a failure unless `policy.classify` says
otherwise; `KeyboardInterrupt`, cancellation and the refusal of another breaker are always ignored. User code, the
classifier included, runs outside every lock.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import wraps
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, cast

from grpc_breaker._core.callables import is_coroutine_function, is_generator_function, name_of
from grpc_breaker._core.errors import CircuitOpenError
from grpc_breaker._core.events import EndedCall
from grpc_breaker._core.policy import BreakerPolicy, classified
from grpc_breaker._core.state import Outcome

if TYPE_CHECKING:
    from grpc_breaker._core.breaker import Permit

P = ParamSpec("P")
R = TypeVar("R")

_NO_BLOCKS: Final = frozenset({__name__, "contextlib"})
"""Modules whose frames stand between a `with` statement and us."""


class OneStep(ABC):
    """The part of a breaker that guards code in one step."""

    __slots__ = ("_entered",)

    _policy: BreakerPolicy

    def __init__(self) -> None:
        self._entered: dict[tuple[FrameType, int], Permit] = {}
        """The `with` blocks that have not ended, the oldest first: in which frame, and how deeply nested there.

        Without a lock, because each step is one of the dictionary's."""

    @abstractmethod
    def admit(self) -> Permit:
        """Ask to make a call."""

    def __enter__(self) -> Self:
        frame = _frame_of_the_block()
        depth = self._depth(frame)
        self._entered[frame, depth] = self.admit()  # nothing in between, where Ctrl-C would lose the permit
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permit, certain = self._leave(_frame_of_the_block())
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

    def _depth(self, frame: FrameType) -> int:
        """How many blocks that have not ended were entered in this frame."""
        depth = 0
        while (frame, depth) in self._entered:
            depth += 1
        return depth

    def _leave(self, frame: FrameType) -> tuple[Permit, bool]:
        """The permit of the `with` block that ends here, and whether that is certain enough to count its result.

        A `with` statement enters and leaves from one frame, in whatever thread, task or context that is run. So it
        tells, and of blocks nested in it the innermost ends first. Where a block is entered in one function and left in
        another (a test fixture) it does not. Then any block may be the one, which does not matter while all are of one
        generation. Else one of the newest goes, and is ignored: never may a call of before the outage settle a probe.
        """
        permit = self._entered.pop((frame, self._depth(frame) - 1), None)
        if permit is not None:
            return permit, True
        while blocks := self._entered.copy():  # again where another thread was faster, each time
            here = {block: permit for block, permit in blocks.items() if not permit.settled} or blocks
            newest = max(permit.generation for permit in here.values())
            certain = all(permit.generation == newest for permit in here.values())
            for block, candidate in here.items():
                permit = self._entered.pop(block, None) if candidate.generation == newest else None
                if permit is not None:  # the next of that frame's, perhaps
                    return permit, certain and permit.generation == newest
        message = f"{self!r}: a 'with' block ends that never began"
        raise RuntimeError(message)

    def _conclude(self, permit: Permit, error: BaseException | None) -> None:
        """Settle the permit of plain code that ended with `error`, or without one."""
        try:
            if error is None and self._policy.classify is None:
                permit.settle(Outcome.SUCCESS)
            else:
                permit.settle(*self._judge(permit, error))
        except BaseException:  # a clock that broke, Ctrl-C in a classifier: the caller's, but the permit is ours
            permit.ignore()
            raise

    def _judge(self, permit: Permit, error: BaseException | None) -> tuple[Outcome, str, str]:
        """Outcome, status and details of plain code."""
        if error is None:
            outcome, status, details = Outcome.SUCCESS, "", ""
        else:
            ours = isinstance(error, Exception) and not isinstance(error, CircuitOpenError)
            outcome = Outcome.FAILURE if ours else Outcome.IGNORED
            status, details = type(error).__name__, _words(error)
        classify = self._policy.classify
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
        return outcome, status, details


def _frame_of_the_block() -> FrameType:
    """The frame whose `with` statement this is; that of an `ExitStack` stands for its caller's."""
    frame = sys._getframe()
    while frame.f_globals.get("__name__") in _NO_BLOCKS and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error that cannot be printed is still an error
        return "(no words: its __str__ raised)"
