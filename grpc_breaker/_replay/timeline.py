"""Counts over time, in bounded memory: where there would be too many slots, two become one, twice as long."""

from __future__ import annotations

from typing import Final

SLOTS: Final = 1200
"""Slots at most."""


class Timeline:
    """Several series of counts over one time axis. Every count is of a moment not before the first."""

    def __init__(self, series: int, width: float = 1.0 / 16) -> None:
        self.begins: float | None = None
        self.width = width
        """Seconds that a slot is long."""
        self.counts: list[list[float]] = [[] for _ in range(series)]

    def slot(self, time: float) -> int:
        """The slot of a moment, the same in each series."""
        if self.begins is None:
            self.begins = time
        slot = int((time - self.begins) / self.width)
        if slot >= len(self.counts[0]):
            while slot >= SLOTS:
                self._halve()
                slot = int((time - self.begins) / self.width)
            for counts in self.counts:
                counts.extend([0.0] * (slot + 1 - len(counts)))
        return slot

    def _halve(self) -> None:
        self.width *= 2
        for series, counts in enumerate(self.counts):
            padded = [*counts, 0.0] if len(counts) % 2 else counts
            self.counts[series] = [sum(padded[it : it + 2]) for it in range(0, len(padded), 2)]
