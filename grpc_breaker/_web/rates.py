"""How much happened per second in the last seconds, of three things that are counted, in constant memory."""

from __future__ import annotations

from typing import Final, NamedTuple

SPAN: Final = 5.0
"""A rate is that of the last 5 to 10 s, as far as the counts arrived in them."""


class Counts(NamedTuple):
    """What is counted."""

    calls: int = 0
    """Calls that ended, those that were refused among them."""
    failures: int = 0
    refusals: int = 0

    def since(self, before: Counts) -> Counts:
        """What was counted after `before`. A counter that went back began anew."""
        return Counts(*(new - old if new >= old else new for new, old in zip(self, before, strict=True)))

    def plus(self, more: Counts) -> Counts:
        """Both together."""
        return Counts(*(one + other for one, other in zip(self, more, strict=True)))


class Rates:
    """Counts per second: the distance to one of two marks, which are moved on every few seconds."""

    __slots__ = ("_counts", "_mark", "_older")

    def __init__(self, now: float) -> None:
        self._counts = Counts()
        self._mark = self._older = (now, self._counts)

    def add(self, now: float, more: Counts) -> None:
        """Count."""
        self._move_marks(now)
        self._counts = self._counts.plus(more)

    def read(self, now: float) -> tuple[float, float, float]:
        """Calls, failures and refusals per second, three digits of each."""
        self._move_marks(now)
        began, before = self._older
        duration = max(1.0, now - began)
        calls, failures, refusals = (float(f"{it / duration:.3g}") for it in self._counts.since(before))
        return calls, failures, refusals

    def _move_marks(self, now: float) -> None:
        age = now - self._mark[0]
        if age >= 2 * SPAN or age < -SPAN:  # nothing was counted meanwhile, or the clock was set back
            self._older = self._mark = (now - SPAN, self._counts)
        elif age >= SPAN:
            self._older, self._mark = self._mark, (now, self._counts)
