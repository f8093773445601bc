"""Breakers as text for a terminal: one line each, those that refuse calls first.

Names and details come from outside. They are printed with control characters written out, which could else move the
cursor of who reads them.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from grpc_breaker._commands.plain import moment_of, state_name
from grpc_breaker._core.log import printable
from grpc_breaker.admin.v1 import admin_pb2

REFUSING: Final = frozenset({admin_pb2.STATE_OPEN, admin_pb2.STATE_HALF_OPEN, admin_pb2.STATE_FORCED_OPEN})
"""States in which calls are refused."""

_RANKS: Final = {
    admin_pb2.STATE_OPEN: 0,
    admin_pb2.STATE_FORCED_OPEN: 1,
    admin_pb2.STATE_HALF_OPEN: 2,
    admin_pb2.STATE_DISABLED: 3,
}
_COLOURS: Final = {"open": 31, "forced_open": 31, "half_open": 33, "disabled": 35, "closed": 32}
_HEADER: Final = ("STATE", "BREAKER", "SINCE", "NEXT", "WINDOW", "IN FLIGHT", "REFUSED", "PROCESS", "WHY")
_BREAKER: Final = 1
_NUMBERS: Final = {"SINCE", "NEXT", "WINDOW", "IN FLIGHT", "REFUSED"}


@dataclass(frozen=True, slots=True)
class Look:
    """What a stream shows."""

    width: int | None = None
    """Columns; `None` where lines may be long, as in a file."""
    height: int | None = None
    """Lines; `None` where there is no end."""
    coloured: bool = False
    """Whether colours are shown."""

    @classmethod
    def of(cls, stream: TextIO) -> Look:
        """That of a terminal, or of a file or pipe."""
        if not stream.isatty():
            return cls()
        size = shutil.get_terminal_size()
        return cls(size.columns, size.lines, not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")

    def cut(self, line: str) -> str:
        """A line that fits."""
        return line if self.width is None or len(line) <= self.width else line[: self.width - 1] + "…"

    def paint(self, line: str, state: str) -> str:
        """A line whose first word is a state, with its colour."""
        colour = _COLOURS.get(state, 0) if self.coloured else 0
        return f"\x1b[{colour}m{state}\x1b[0m{line[len(state) :]}" if colour and line.startswith(state) else line


Row = tuple[str, Any]
"""The name of a process, and one of its breakers."""


def table(rows: Iterable[Row], look: Look) -> list[str]:
    """The lines of a table. In a terminal, why a breaker refuses calls has a line of its own."""
    ordered = sorted(rows, key=lambda row: (_RANKS.get(row[1].state, 9), row[1].name, row[0]))
    columns = len(_HEADER) - (look.width is not None)
    cells = [_HEADER, *(_cells(*row) for row in ordered)]
    widths = [max(len(line[column]) for line in cells) for column in range(columns)]
    if look.width is not None:  # names are shortened, down to a third of the line
        others = sum(widths) - widths[_BREAKER] + 2 * (columns - 1)
        widths[_BREAKER] = min(widths[_BREAKER], max(look.width // 3, look.width - others))
    lines = [look.cut(_line(cells[0], widths))]
    for (_, breaker), line in zip(ordered, cells[1:], strict=True):
        lines.append(look.paint(look.cut(_line(line, widths)), state_name(breaker.state)))
        if look.width is not None and line[-1]:
            lines.append(look.cut(f"{' ' * widths[0]}    {line[-1]}"))
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        _shortened(cell, width).rjust(width) if name in _NUMBERS else _shortened(cell, width).ljust(width)
        for name, cell, width in zip(_HEADER, cells, widths, strict=False)
    )
    return "  ".join(padded).rstrip()


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3  # the method's name says most
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _cells(process: str, breaker: Any) -> tuple[str, ...]:
    window = f"{breaker.window_failures}/{breaker.window_calls} failed"
    since = span(time.time() - seconds_of(breaker.since)) if breaker.HasField("since") else "-"
    return (
        state_name(breaker.state),
        printable(breaker.name),
        since,
        _next(breaker),
        window,
        str(breaker.in_flight) + (f" ({breaker.hung} hung)" if breaker.hung else ""),
        str(breaker.rejected),
        process,
        why(breaker),
    )


def _next(breaker: Any) -> str:
    """How long until its state may change by itself."""
    if breaker.HasField("hold"):
        return span(seconds_of(breaker.hold.remaining)) if breaker.hold.HasField("remaining") else "order"
    return span(seconds_of(breaker.retry_after)) if breaker.state == admin_pb2.STATE_OPEN else "-"


def why(breaker: Any) -> str:
    """Why it does not admit calls as usual; empty where it does."""
    said = [] if breaker.enforced else ["on trial, refuses nothing"]
    if breaker.HasField("hold"):
        said.append(breaker.hold.reason or "held, no reason given")
    elif breaker.condition:
        said.append(breaker.condition)
        if breaker.HasField("last_failure"):
            said.append(failure(breaker.last_failure))
    return printable(": ".join(said))


def failure(it: Any) -> str:
    """A failure, which may have control characters in it."""
    return f"{it.status} {it.details}".strip()


def change(it: Any) -> str:
    """A change of state."""
    arrow = f"{state_name(it.previous)} -> {state_name(it.state)}"
    cause = "" if it.status == "OK" else failure(it)
    return printable(f"{it.breaker}  {arrow}  {it.reason}{f': {cause}' if cause else ''}")


def clock(moment: Any) -> str:
    """The time of day of a moment, here; blank for one that is none."""
    time = moment_of(moment)
    return " " * 8 if time is None else time.astimezone().strftime("%H:%M:%S")


def seconds_of(it: Any) -> float:
    """The seconds of a time or duration."""
    seconds: float = it.seconds + it.nanos / 1e9
    return seconds


def span(seconds: float) -> str:
    """A time span, in the two units that say most."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def summary(breakers: Sequence[Any], processes: int) -> str:
    """What a table says in one line."""
    ill = sum(it.state in REFUSING for it in breakers)
    refuse = "refuses" if ill == 1 else "refuse"
    return f"{ill} of {number(len(breakers), 'breaker')} in {number(processes, 'process', 'es')} {refuse} calls"


def number(count: int, thing: str, plural: str = "s") -> str:
    """A number of things."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}{plural}"


def say(*lines: str) -> None:
    """Print lines."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
