"""Records as CSV: a header with the names of the columns, then a row for each call."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from grpc_breaker._core.log import printable
from grpc_breaker._replay.calls import Call, Notes, call_of, is_doubtful, note_doubts

if TYPE_CHECKING:
    from grpc_breaker._replay.reading import Lines

_NEEDED: Final = ("time", "method", "duration", "status")
_YES: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def calls_of_rows(first: str, lines: Lines, notes: Notes) -> Iterator[tuple[Call, int]]:
    """The calls of a CSV file; see `calls_of_lines`."""
    rows = csv.reader(chain([first], lines), strict=True)
    columns = [it.strip().lower() for it in _row(rows, lines) or ()]
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        lines.fail(
            f"the header is missing, or has no column {' and '.join(missing)}: CSV begins with "
            f"time,method,duration,status; the first line is {printable(first.strip())[:60]!r}"
        )
    if len(set(columns)) < len(columns):
        lines.fail("a column is there twice")
    unknown = [it for it in columns if it not in Call._fields]
    if unknown:
        names = ", ".join(printable(it)[:30] for it in unknown[:5])
        notes.doubt(f"Columns that are not known were left out: {names}.", lines.where)
    while (row := _row(rows, lines)) is not None:
        if not row:
            continue
        if len(row) != len(columns):
            if not lines.complete and len(row) < len(columns):
                lines.cut_off()
                return
            lines.fail(f"has {len(row)} columns, and the header has {len(columns)}")
        try:
            call = _call(dict(zip(columns, row, strict=True)), lines, notes)
        except ValueError as error:
            lines.fail(str(error))
        if is_doubtful(call):
            note_doubts(call, lines.where, notes)
        yield call, lines.number


def _row(rows: Iterator[list[str]], lines: Lines) -> list[str] | None:
    """The next row; `None` after the last."""
    try:
        return next(rows, None)
    except csv.Error as error:
        if not lines.complete:
            lines.cut_off()
            return None
        lines.fail(f"is no CSV: {error}")


def _call(row: dict[str, str], lines: Lines, notes: Notes) -> Call:
    """The call of a row.

    Raises:
        ValueError: A field is wrong.
    """
    given: dict[str, Any] = {name: text.strip() for name, text in row.items() if name in Call._fields}
    given["time"] = _time(given["time"], lines, notes)
    given["duration"] = _number("duration", given["duration"])
    for name in ("deadline", "refused", "outcome"):
        if not given.get(name):
            given.pop(name, None)
    if "deadline" in given:
        given["deadline"] = _number("deadline", given["deadline"])
    if "stream" in given:
        given["stream"] = _YES.get(given["stream"].lower(), given["stream"])
    return call_of(**given)


def _time(text: str, lines: Lines, notes: Notes) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"time must be seconds since the epoch, or ISO 8601, got {printable(text)[:60]!r}"
        raise ValueError(message) from None
    if moment.tzinfo is None:
        notes.doubt("Times without a zone are taken for UTC.", lines.where)
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        message = f"{name} must be seconds, got {printable(text)[:60]!r}"
        raise ValueError(message) from None
