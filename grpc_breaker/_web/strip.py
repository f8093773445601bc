"""The last ten minutes of one breaker, in cells of five seconds: the worst state in each, and how many calls failed."""

from __future__ import annotations

from typing import Final

from grpc_breaker.admin.v1 import admin_pb2 as pb

CELLS: Final = 120
SECONDS: Final = 5

NOTHING: Final = "-"
"""The letter of a cell in which nothing was known."""
LETTERS: Final = {
    pb.STATE_CLOSED: "c",
    pb.STATE_DISABLED: "d",
    pb.STATE_HALF_OPEN: "h",
    pb.STATE_FORCED_OPEN: "f",
    pb.STATE_OPEN: "o",
}
"""The letter of each state, the worst last."""
_WORST_LAST: Final = "".join((NOTHING, *LETTERS.values()))


def cell_of(now: float) -> int:
    """The number of the cell that is written at a time, in seconds since the epoch."""
    return int(now // SECONDS)


class Strip:
    """What is kept of one breaker."""

    __slots__ = ("_failures", "_letter", "_letters", "_number")

    def __init__(self, now: float) -> None:
        self._number = cell_of(now)
        """Of the newest cell."""
        self._letter = NOTHING
        """What it does now."""
        self._letters = [NOTHING] * CELLS
        self._failures = [0] * CELLS

    def note(self, now: float, letter: str) -> None:
        """It is in this state from now on."""
        self._move_on(now)
        self._letter = letter
        self._letters[-1] = max(self._letters[-1], letter, key=_WORST_LAST.index)

    def add_failures(self, now: float, failures: int) -> None:
        """So many calls failed."""
        self._move_on(now)
        self._failures[-1] += failures

    def text(self, now: float, cells: int = CELLS) -> str:
        """The last cells, the oldest first, two characters each: the letter of the state, and a digit for how many
        calls failed: 0 for none, 1 for one, 2 for two, 3 from four on, 4 from eight on and so forth, 9 from 256 on.
        """
        self._move_on(now)
        last = zip(self._letters[-cells:], self._failures[-cells:], strict=True)
        return "".join(f"{letter}{min(9, failures.bit_length())}" for letter, failures in last)

    def _move_on(self, now: float) -> None:
        new = min(CELLS, cell_of(now) - self._number)
        if new > 0 or new < -1:  # -1: another thread was faster; less: the clock was set back
            self._number = cell_of(now)
        if new > 0:
            self._letters[:] = self._letters[new:] + [self._letter] * new
            self._failures[:] = self._failures[new:] + [0] * new
