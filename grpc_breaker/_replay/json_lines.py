"""The record that `TrafficRecorder` writes: JSON lines, first a header, then a line for each call as it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from grpc_breaker._core.log import printable
from grpc_breaker._replay.calls import (
    FIRST_TIME,
    LAST_TIME,
    STATUSES,
    Call,
    Notes,
    RecordedChange,
    call_of,
    is_doubtful,
    note_doubts,
)

if TYPE_CHECKING:
    from grpc_breaker._replay.reading import Lines

HEADER: Final = "grpc_breaker_traffic"
VERSION: Final = 1

_KNOWN: Final = frozenset(Call._fields)
_NEEDED: Final = ("time", "method", "duration", "status")
_STATUS_NAMES: Final = {name: name for name in STATUSES}
MOST_NAMES: Final = 10_000
"""Names of methods that calls share: each line brings a text of its own, which calls that are held back would keep."""
_ODD: Final = frozenset({"", "/", " "})
_EXAMPLE: Final = '{"grpc_breaker_traffic": 1, "started": 1764250000.0}'
_CLOCKS: Final = 1.0
"""Seconds by which a call may have ended before the recorder had started, until these are two clocks."""


def calls_of_lines(first: str, lines: Lines, notes: Notes) -> Iterator[tuple[Call, int]]:
    """The calls of a record of JSON lines.

    Args:
        first: Its first line, which has been read.
        lines: The others.
        notes: What else is to be said of it.

    Raises:
        RecordError: A line is wrong.
    """
    loads, started = json.loads, None
    shared: dict[str, str] = {}
    line: str | None = first
    while line is not None:
        try:
            row: Any = loads(line)
        except (ValueError, RecursionError):
            if line.isspace():
                line = next(lines, None)
                continue
            if not lines.complete:
                lines.cut_off()
                return
            lines.fail(f"is not JSON: {printable(line.strip()[:60])}")
        if row.__class__ is not dict:
            lines.fail(f"must be a JSON object, got {printable(line.strip()[:60])}")
        if started is None or HEADER in row:
            started = _header(row, lines, notes)
        elif "method" in row or "duration" in row:
            call = _call(row, shared, lines, notes)
            if call.time + call.duration < started - _CLOCKS:
                words = "Calls ended before the recorder had started, by its header: two clocks, or a wrong header."
                notes.doubt(words, lines.where)
            yield call, lines.number
        else:
            _other(row, lines, notes)
        line = next(lines, None)


def _header(row: dict[str, Any], lines: Lines, notes: Notes) -> float:
    """When the recorder started."""
    if HEADER not in row:
        lines.fail(f"the header is missing: a record begins with {_EXAMPLE}")
    version = row[HEADER]
    if (version is not VERSION and version != VERSION) or isinstance(version, bool):
        lines.fail(f"{HEADER} must be {VERSION}, the only version there is, got {printable(repr(version))[:40]}")
    started = row.get("started")
    if not isinstance(started, int | float) or isinstance(started, bool) or not FIRST_TIME <= started <= LAST_TIME:
        message = f"started must be seconds since the epoch, between the years 2000 and 2100, got {started!r}"
        lines.fail(printable(message)[:160])
    notes.process(f"{row.get('host', '')}:{row.get('pid', '')}")
    return float(started)


def _call(row: dict[str, Any], shared: dict[str, str], lines: Lines, notes: Notes) -> Call:
    """The call of a line. Those that are held back share the names of their methods and statuses."""
    get = row.get
    time: Any = get("time")
    method: Any = get("method")
    duration: Any = get("duration")
    status: Any = get("status")
    deadline: Any = get("deadline")
    if (  # as almost all are; what follows says the same of the others, and what is wrong with them
        time.__class__ is float
        and duration.__class__ is float
        and method.__class__ is str
        and status.__class__ is str
        and (len(row) == 4 if deadline is None else len(row) == 5 and deadline.__class__ is float)
        and FIRST_TIME <= time <= LAST_TIME
        and 0.0 <= duration < (60.0 if deadline is None else min(60.0, 2.0 * deadline + 1.0))
        and status in STATUSES
        and method[:1] not in _ODD
    ):
        if len(shared) < MOST_NAMES:
            method = shared.setdefault(method, method)
        return Call(time, method, duration, _STATUS_NAMES[status], deadline)
    try:
        call = call_of(**{key: value for key, value in row.items() if key in _KNOWN})
    except (KeyError, TypeError, ValueError) as error:
        missing = [name for name in _NEEDED if name not in row]
        lines.fail(f"{' and '.join(missing)} is missing" if missing else str(error))
    if unknown := row.keys() - _KNOWN:
        names = ", ".join(sorted(printable(it)[:30] for it in unknown)[:5])
        words = f"Keys of calls that are not known were left out: {names}."
        notes.doubt(words if len(notes.doubts) < 50 else "More keys that are not known were left out.", lines.where)
    if is_doubtful(call):
        note_doubts(call, lines.where, notes)
    return call


def _other(row: dict[str, Any], lines: Lines, notes: Notes) -> None:
    """Note a line that is no call."""
    if "dropped" in row:
        dropped = row["dropped"]
        if not isinstance(dropped, int) or isinstance(dropped, bool) or dropped < 0:
            lines.fail(f"dropped must be a number of calls, got {printable(repr(dropped))[:40]}")
        notes.dropped += dropped
    elif "change" in row:
        state, time, breaker = row["change"], row.get("time"), row.get("breaker")
        if not (isinstance(state, str) and isinstance(time, int | float) and isinstance(breaker, str)):
            lines.fail("a change must have a state, a time and a breaker")
        if isinstance(time, bool) or not FIRST_TIME <= time <= LAST_TIME:
            message = f"time must be seconds since the epoch, between the years 2000 and 2100, got {time!r}"
            lines.fail(printable(message)[:160])
        notes.change(RecordedChange(float(time), breaker, state, str(row.get("reason", ""))))
    else:
        keys = printable(", ".join(map(str, row)))[:60]
        lines.fail(f"is no call (it has no method and no duration), no header and no change; it has: {keys}")
