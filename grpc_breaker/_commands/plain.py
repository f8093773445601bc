"""Messages of the admin service as plain data ready for JSON, with numbers as numbers: protobuf's own JSON has text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from google.protobuf.json_format import MessageToDict

from grpc_breaker.admin.v1 import admin_pb2

STATE_NAMES: Final = {value: name.removeprefix("STATE_").lower() for name, value in admin_pb2.State.items()}
"""The states as `grpc_breaker.State` spells them, by their numbers."""

UNKNOWN: Final = "unknown"
"""A state that only a newer version knows."""

_YEAR_9999: Final = 253_370_764_800
"""In seconds since the epoch. Python has no later years, and none but those of the present are meant."""

COUNTS: Final = (
    "in_flight",
    "hung",
    "successes",
    "failures",
    "ignored",
    "stale",
    "rejected",
    "unenforced",
    "window_calls",
    "window_failures",
    "window_slow",
)


def state_name(state: admin_pb2.State.ValueType) -> str:
    """A state as `grpc_breaker.State` spells it."""
    return STATE_NAMES.get(state, UNKNOWN)


def moment_of(time: Any) -> datetime | None:
    """A time; `None` for one that is none, because a process may say anything."""
    if not 0 <= time.seconds < _YEAR_9999:
        return None
    return datetime.fromtimestamp(time.seconds, UTC) + timedelta(microseconds=time.nanos // 1000)


def plain_process(process: Any) -> dict[str, Any]:
    """A process."""
    return {
        "pid": process.pid,
        "host": process.host,
        "program": process.program,
        "started": _time(process, "started"),
        "version": process.version,
        "allow_changes": process.allow_changes,
    }


def plain_breaker(breaker: Any) -> dict[str, Any]:
    """A breaker."""
    hold = {
        "reason": breaker.hold.reason,
        "since": _time(breaker.hold, "since"),
        "remaining": _seconds(breaker.hold, "remaining"),
    }
    return {
        "name": breaker.name,
        "state": state_name(breaker.state),
        "condition": breaker.condition,
        "since": _time(breaker, "since"),
        "retry_after": _seconds(breaker, "retry_after"),
        "sequence": breaker.sequence,
        "hold": hold if breaker.HasField("hold") else None,
        **{name: getattr(breaker, name) for name in COUNTS},
        "last_failure": _failure(breaker.last_failure) if breaker.HasField("last_failure") else None,
        "enforced": breaker.enforced,
    }


def plain_change(change: Any) -> dict[str, Any]:
    """A change of state."""
    return {
        "sequence": change.sequence,
        "breaker": change.breaker,
        "method": change.method,
        "previous": state_name(change.previous),
        "state": state_name(change.state),
        "reason": change.reason,
        "time": _time(change, "time"),
        "calls": change.calls,
        "failures": change.failures,
        "slow": change.slow,
        "status": change.status,
        "details": change.details,
        "last_failures": [_failure(it) for it in change.last_failures],
    }


def plain_snapshot(snapshot: Any) -> dict[str, Any]:
    """A snapshot of a breaker, as the process made it; whole numbers are integers again."""
    plain: dict[str, Any] = _whole(MessageToDict(snapshot))
    return plain


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(it) for key, it in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_whole(it) for it in cast("list[object]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _failure(failure: Any) -> dict[str, Any]:
    return {"status": failure.status, "details": failure.details}


def _time(message: Any, field: str) -> str | None:
    """A time as ISO 8601 has it; `None` where it is unset, or none."""
    moment = moment_of(getattr(message, field)) if message.HasField(field) else None
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(message: Any, field: str) -> float | None:
    """A duration in seconds; `None` where it is unset."""
    if not message.HasField(field):
        return None
    time = getattr(message, field)
    seconds: float = round(time.seconds + time.nanos / 1e9, 3)
    return seconds
