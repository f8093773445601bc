"""Calls in the order of their starts, from files that have them in the order of their ends, in bounded memory.

A record is written as calls end. So a line may begin earlier than those before it, by as much as the longest call.
Calls are held back until no line can begin before them any more: until a call was read that began `horizon` seconds
later. A line that comes too late for that is an error: played in the wrong order, it would make a wrong picture.

Several files are merged by time, whatever their order: those that a recorder rotated, or those of several processes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from os import PathLike, fspath
from typing import Final

from grpc_breaker._replay.calls import Call, Notes, RecordError, moment
from grpc_breaker._replay.reading import STDIN, Located, calls_of

HORIZON: Final = 120.0
"""Seconds that calls are held back by default."""

MOST_HELD: Final = 4_000_000
"""Calls that are held back at most: about a gigabyte."""


def ordered(located: Iterable[Located], source: str, horizon: float, notes: Notes, holes: bool) -> Iterator[Call]:
    """The calls of one file that were made, in the order of their starts.

    Raises:
        RecordError: A line comes later than the horizon allows, too many calls are held back, or one was refused, and
            `holes` does not allow that.
    """
    held: list[tuple[float, int, Call]] = []
    push, pop = heapq.heappush, heapq.heappop
    latest, released, latest_line, number = 0.0, 0.0, 0, 0
    for call, line in located:
        if call[7] is not None:
            if not holes:
                raise RecordError(source, line, _HOLE.format(call.refused))
            notes.holes += 1
            continue
        start = call[0]
        if start > latest:
            latest, latest_line = start, line
            released = start - horizon
            while held and held[0][0] < released:
                yield pop(held)[2]
        elif start < released:
            problem = (
                f"the call began {latest - start:.3f} s before that of line {latest_line}, more than the horizon of "
                f"{horizon:g} s: the record is not sorted, or the horizon (--horizon) is shorter than its longest call"
            )
            raise RecordError(source, line, problem)
        number += 1
        push(held, (start, number, call))
        if len(held) > MOST_HELD:
            problem = f"more than {MOST_HELD} calls begin within the horizon of {horizon:g} s: shorten it (--horizon)"
            raise RecordError(source, line, problem)
    while held:
        yield pop(held)[2]


_HOLE: Final = (
    "this call was refused ({}) when the record was made, so nobody knows how it would have ended, nor how the server "
    "would have been with it; --despite-breaker plays the record without such calls"
)


def merged(
    paths: Sequence[str | PathLike[str]], notes: Notes, *, horizon: float = HORIZON, holes: bool = False
) -> Iterator[Call]:
    """The calls of files that were made, in the order of their starts.

    Args:
        paths: The files; "-" for the standard input.
        notes: What else is to be said of them.
        horizon: Seconds by which a line may begin before those that stand before it.
        holes: Whether a record may have calls in it that were refused; they are left out.

    Raises:
        RecordError: A file cannot be read, is there twice, or something in it is wrong.
    """
    names = [fspath(path) for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise RecordError(name, None, "is named twice: its calls would count twice")
    files = [
        ordered(calls_of(name, notes), "standard input" if name == STDIN else name, horizon, notes, holes)
        for name in names
    ]
    return files[0] if len(files) == 1 else heapq.merge(*files, key=itemgetter(0))


def watched(calls: Iterable[Call], notes: Notes, now: float) -> Iterator[Call]:
    """Hand the calls on, and note what is doubtful about all of them together.

    Args:
        calls: In the order of their starts.
        notes: Where it is noted.
        now: The time of this machine's clock.
    """
    watch = _Watch()
    see, future = watch.see, now + _CLOCKS
    for call in calls:
        see(call)
        if call[0] + call[2] > future:
            notes.doubt("Calls end in the future, by the clock of this machine: two clocks.")
        yield call
    watch.tell(notes)


class _Watch:
    """What is seen of all calls together."""

    def __init__(self) -> None:
        self._count = 0
        self._begins = self._latest = -math.inf
        self._whole = True
        """Whether all times are whole seconds."""
        self._alike: set[Call] = set()
        """The calls that began at the same moment as the latest one."""
        self._twice = 0
        self._gap = 0.0
        self._before_gap = 0.0

    def see(self, call: Call) -> None:
        """Take in the next call."""
        start = call[0]
        if start == self._latest:
            self._twice += call in self._alike
            self._alike.add(call)
        else:
            if not self._count:
                self._begins = start
            elif start - self._latest > self._gap:
                self._gap, self._before_gap = start - self._latest, self._latest
            self._latest = start
            self._alike = {call}
            self._whole = self._whole and start.is_integer()
        self._count += 1

    def tell(self, notes: Notes) -> None:
        """Note what is doubtful."""
        if self._twice > _BY_CHANCE * self._count:
            notes.doubt(
                "Lines are exactly alike: each was played as a call of its own. Is a part of the record there twice?",
                times=self._twice,
            )
        if self._gap > max(_PAUSE, _RARE * (self._latest - self._begins) / max(self._count, 1)):
            notes.doubt(
                f"For {self._gap:.0f} seconds no call began, from {moment(self._before_gap)} on: a breaker that was "
                "open then stayed so, and all that time counts. Is a part of the record missing?"
            )
        if self._whole and self._count > 1:
            notes.doubt("All times are whole seconds: the order of calls within a second is not known.")


_BY_CHANCE: Final = 0.001
"""Share of lines that may be alike by chance, where many calls begin."""

_PAUSE: Final = 60.0
"""Seconds without a call that are no gap, however many calls there are else."""
_RARE: Final = 100
"""Times the mean distance of two calls that a gap is longer than."""

_CLOCKS: Final = 1.0
"""Seconds that a call may end after now, until these are two clocks."""
