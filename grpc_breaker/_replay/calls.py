"""One recorded call, and the checks that it makes sense: a bad value is an error that names the file and the line.

What is doubtful and can be played all the same is noted, counted, and ends as a warning in every form of the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, NoReturn

import grpc

from grpc_breaker._core.log import printable
from grpc_breaker._core.spelling import nearest
from grpc_breaker._core.state import Outcome, RefusalReason

FIRST_TIME: Final = 946_684_800.0
"""2000-01-01. An earlier time is in other units, or counts from another moment."""
LAST_TIME: Final = 4_102_444_800.0
"""2100-01-01. A later time is in other units."""
LONG_CALL: Final = 3600.0
"""Seconds above which the duration of a call that is no stream is doubtful."""

STATUSES: Final = {code.name: code for code in grpc.StatusCode}
_BY_NUMBER: Final = {code.value[0]: code.name for code in grpc.StatusCode}
_BY_LETTERS: Final = {**{name.replace("_", ""): name for name in STATUSES}, "CANCELED": "CANCELLED"}
_OUTCOMES: Final = frozenset(str(it) for it in Outcome)
_REFUSALS: Final = frozenset(str(it) for it in RefusalReason)


class Call(NamedTuple):
    """One call of a record."""

    time: float
    """When it began, in seconds since the epoch."""
    method: str
    """The method, "pricing.v1.Pricing/GetPrice"."""
    duration: float
    """Seconds until it ended, from 0."""
    status: str
    """The name of its gRPC status; outside gRPC that of the exception, or "OK"."""
    deadline: float | None = None
    """Seconds that it had. Default `None`: no deadline, or unknown."""
    target: str = ""
    """The target that its interceptor was told. Default: none."""
    stream: bool = False
    """Whether its duration says nothing of the server. Default False."""
    refused: str | None = None
    """What refused it, "breaker", "bulkhead", "rate" or "throttle": it was not made. Default `None`: it was made."""
    outcome: str | None = None
    """The outcome, "success", "failure" or "ignored", where the status does not say it. Default `None`: it does."""
    details: str = ""
    """The words that came with the status. Default: none."""


class RecordError(ValueError):
    """A record that cannot be played.

    Attributes:
        source: The file.
        line: Its line, from 1; `None` where the error is about the whole.
        problem: What is wrong.
    """

    def __init__(self, source: str, line: int | None, problem: str) -> None:
        where = printable(source) if line is None else f"{printable(source)}:{line}"
        super().__init__(f"{where}: {problem}")
        self.source, self.line, self.problem = source, line, problem


@dataclass
class Noted:
    """Something doubtful that was seen, perhaps often."""

    times: int = 0
    first: str = ""
    """Where it was seen first."""


@dataclass
class Notes:
    """What is to be said of a record besides its calls. One for all files."""

    doubts: dict[str, Noted] = field(default_factory=dict[str, Noted])
    """By the words of the warning."""
    statuses: dict[str, int] = field(default_factory=dict[str, int])
    """How often each status was seen that gRPC does not have, up to twenty of them."""
    processes: set[str] = field(default_factory=set[str])
    dropped: int = 0
    """Calls that the recorder could not write."""
    holes: int = 0
    """Calls that were refused when the record was made; they are not played."""
    changes: list[RecordedChange] = field(default_factory=list["RecordedChange"])
    sampled: bool = False
    """Whether these are spans, of which there may be only a sample."""

    def doubt(self, words: str, where: str = "", times: int = 1) -> None:
        """Note something doubtful."""
        noted = self.doubts.setdefault(words, Noted(first=where))
        noted.times += times

    def process(self, name: str) -> None:
        """Note whose calls are recorded."""
        if len(self.processes) < 1000:  # pragma: no branch - enough to say that they are many
            self.processes.add(name)

    def change(self, change: RecordedChange) -> None:
        """Note a change of the breaker that was at work."""
        if len(self.changes) < MOST_CHANGES:
            self.changes.append(change)
        else:
            self.doubt(f"Of the recorded changes of the live breaker only the first {MOST_CHANGES} are shown.")


MOST_CHANGES: Final = 10_000
"""Changes of state that are kept of a record, and of each policy."""


class RecordedChange(NamedTuple):
    """A change of state of the breaker that was at work when the record was made."""

    time: float
    """When, in seconds since the epoch."""
    breaker: str
    """Its name."""
    state: str
    """The state it entered, "open"."""
    reason: str
    """Which condition fired, "consecutive_failures"."""


def moment(time: float) -> str:
    """A time for people."""
    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def status_named(status: object) -> str:
    """The name of a status that is given by its name, in any spelling, or by its number.

    Raises:
        ValueError: A number that gRPC does not have, or no status at all.
    """
    if status.__class__ is str:
        name = str(status)
        if name in STATUSES:
            return name
        if name.isascii() and name.isdigit():
            return status_named(int(name))
        if name.startswith("StatusCode."):
            return status_named(name.removeprefix("StatusCode."))
        known = _BY_LETTERS.get(name.replace("_", "").replace(" ", "").upper())
        if known is not None:
            return known
        if not name.strip():
            _refuse("status", "the name or the number of a status", status)
        return name
    if not isinstance(status, int) or isinstance(status, bool) or status not in _BY_NUMBER:
        _refuse("status", "the name of a status, or its number, 0 to 16", status)
    return _BY_NUMBER[status]


def call_of(
    time: Any,
    method: Any,
    duration: Any,
    status: Any,
    deadline: Any = None,
    target: Any = "",
    stream: Any = False,
    refused: Any = None,
    outcome: Any = None,
    details: Any = "",
) -> Call:
    """Check the fields of a call.

    Raises:
        ValueError: The first that is wrong, what is allowed, and what it was.
    """
    if not _is_number(time) or not FIRST_TIME <= time <= LAST_TIME:
        _refuse("time", "seconds since the epoch, between the years 2000 and 2100", time, _unit(time))
    if not isinstance(method, str) or not method.strip("/ "):
        _refuse("method", "the name of a method", method)
    if not _is_number(duration) or not 0.0 <= duration <= LAST_TIME - time:
        _refuse("duration", "seconds, 0 or more", duration)
    status = status_named(status)
    if deadline is not None and (not _is_number(deadline) or not deadline >= 0.0):
        _refuse("deadline", "seconds, 0 or more, or not be there", deadline)
    if not isinstance(target, str) or "@" in target or target != target.strip():
        _refuse("target", "a name without spaces around it and without '@'", target)
    if not isinstance(stream, bool):
        _refuse("stream", "true or false", stream)
    if refused is not None and refused not in _REFUSALS:
        _refuse("refused", f"one of {', '.join(sorted(_REFUSALS))}", refused)
    if outcome is not None and outcome not in _OUTCOMES:
        _refuse("outcome", f"one of {', '.join(sorted(_OUTCOMES))}", outcome)
    if not isinstance(details, str):
        _refuse("details", "text", details)
    name = method.removeprefix("/")
    return Call(time, name, duration, status, deadline, target, stream, refused, outcome, details[:200])


def is_doubtful(call: Call) -> bool:
    """Whether there is anything to note about a call."""
    limit = LONG_CALL if call.deadline is None else min(LONG_CALL, 2 * call.deadline + 1)
    return call.status not in STATUSES or (call.duration > limit and not call.stream)


def note_doubts(call: Call, where: str, notes: Notes) -> None:
    """Note what is doubtful about a call."""
    if call.status not in STATUSES and call.outcome is None:
        known = nearest(call.status.upper(), STATUSES)
        seen = notes.statuses
        if call.status in seen or len(seen) < 20:
            seen[call.status] = seen.get(call.status, 0) + 1
        hint = f" (did the record mean {known}?)" if known else ""
        notes.doubt(
            f"Statuses that gRPC does not have are played as failures, as exceptions of plain code are: "
            f"{printable(call.status)[:60]}{hint}."
            if len(seen) < 20
            else "Many more statuses that gRPC does not have are played as failures.",
            where,
        )
    if call.duration > LONG_CALL and not call.stream:
        notes.doubt(
            "Calls that took more than an hour and are not marked as streams: is the duration in seconds?", where
        )
    if call.deadline is not None and call.duration > 2 * call.deadline + 1 and not call.stream:
        notes.doubt("Calls that took more than twice their deadline: are both in seconds?", where)


def _is_number(value: object) -> bool:
    # compared, not converted: JSON has integers that no float can hold
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def _unit(time: object) -> str:
    """A hint at the unit of a time that is not in seconds."""
    if isinstance(time, int | float) and not isinstance(time, bool):
        for unit, factor in (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
            if FIRST_TIME * factor <= time <= LAST_TIME * factor:
                return f"; are these {unit}?"
    return ""


def _refuse(name: str, allowed: str, value: object, hint: str = "") -> NoReturn:
    """Say what is wrong with a field.

    Raises:
        ValueError: That, whatever the kind of the value: it comes out of a file.
    """
    message = f"{name} must be {allowed}, got {printable(repr(value))[:80]}{hint}"
    raise ValueError(message)
