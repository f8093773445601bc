"""Breakers as messages of the admin service.

Text that protobuf cannot carry, because a name was no Unicode, is written out. `hide_details` leaves out what servers
said of failures; an operator's own words stay.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.events import FailureReason, StateChange
from grpc_breaker._core.log import printable
from grpc_breaker._core.overview import Summary, seconds_until
from grpc_breaker._core.state import Reason, State
from grpc_breaker.admin.v1 import admin_pb2

STATES: Final = {
    State.CLOSED: admin_pb2.STATE_CLOSED,
    State.OPEN: admin_pb2.STATE_OPEN,
    State.HALF_OPEN: admin_pb2.STATE_HALF_OPEN,
    State.FORCED_OPEN: admin_pb2.STATE_FORCED_OPEN,
    State.DISABLED: admin_pb2.STATE_DISABLED,
}

_BY_OPERATORS: Final = {Reason.FORCED_OPEN, Reason.DISABLED, Reason.RESET, Reason.HOLD_EXPIRED}
"""Reasons of a change whose details are an operator's words."""


def process_message(allow_changes: bool) -> admin_pb2.Process:
    """This process, which serves its breakers from now on."""
    from grpc_breaker import __version__  # noqa: PLC0415 - the package imports this one nowhere, and is whole by now

    return admin_pb2.Process(
        pid=os.getpid(),
        host=text(socket.gethostname()),
        program=text(_program()),
        started=timestamp(time.time()),
        version=__version__,
        allow_changes=allow_changes,
    )


def _program() -> str:
    path = Path(getattr(sys, "argv", [""])[0])
    return (path.parent.name if path.name == "__main__.py" else path.name) or "python"


def breaker_message(breaker: CircuitBreaker, seen: Summary, hide_details: bool) -> admin_pb2.Breaker:
    """A breaker as it was seen; the times that are left are those that are left now."""
    totals, (calls, failures, slow) = seen.totals, seen.window
    message = admin_pb2.Breaker(
        name=text(seen.name),
        state=STATES[seen.state],
        condition=seen.condition,
        sequence=seen.sequence,
        in_flight=seen.in_flight,
        hung=seen.hung,
        successes=totals.successes,
        failures=totals.failures,
        ignored=totals.ignored,
        stale=totals.stale,
        rejected=totals.rejected,
        unenforced=totals.unenforced,
        window_calls=calls,
        window_failures=failures,
        window_slow=slow,
        enforced=seen.enforced,
    )
    if seen.since is not None:
        message.since.CopyFrom(timestamp(seen.since))
    wait = seconds_until(breaker, seen.until)
    if wait is not None:
        message.retry_after.CopyFrom(duration(wait))
    if seen.hold is not None:
        message.hold.reason = text(seen.hold.reason)
        if seen.hold.since:
            message.hold.since.CopyFrom(timestamp(seen.hold.since))
        left = seconds_until(breaker, seen.hold.until)
        if left is not None:
            message.hold.remaining.CopyFrom(duration(left))
    if seen.last_failure is not None:
        message.last_failure.CopyFrom(_failure(seen.last_failure, hide_details))
    return message


def change_message(change: StateChange, hide_details: bool) -> admin_pb2.StateChange:
    """A change of state."""
    return admin_pb2.StateChange(
        sequence=change.sequence,
        breaker=text(change.breaker),
        method=text(change.method),
        previous=STATES[change.previous],
        state=STATES[change.state],
        reason=str(change.reason),
        time=timestamp(change.time),
        calls=change.calls,
        failures=change.failures,
        slow=change.slow,
        status=text(change.status),
        details="" if hide_details and change.reason not in _BY_OPERATORS else text(change.details),
        last_failures=[_failure(it, hide_details) for it in change.last_failures],
    )


def snapshot_message(snapshot: dict[str, Any], hide_details: bool) -> Struct:
    """A snapshot of a breaker."""
    plain = _carried(snapshot)
    if hide_details:
        for failures in (plain["last_failures"], *(it["last_failures"] for it in plain["changes"])):
            for failure in failures:
                failure["details"] = ""
        for change in plain["changes"]:
            if change["reason"] not in _BY_OPERATORS:
                change["details"] = ""
    struct: Struct = ParseDict(plain, Struct())
    return struct


def _carried(value: Any) -> Any:
    """A value of a snapshot as a struct takes it."""
    if isinstance(value, str):
        return text(str(value))
    if isinstance(value, dict):
        return {text(key): _carried(it) for key, it in cast("dict[str, Any]", value).items()}
    return [_carried(it) for it in cast("list[Any]", value)] if isinstance(value, list | tuple) else value


def _failure(failure: FailureReason, hide_details: bool) -> admin_pb2.Failure:
    return admin_pb2.Failure(status=text(failure.status), details="" if hide_details else text(failure.details))


def timestamp(seconds: float) -> Timestamp:
    """A time, from seconds since the epoch."""
    fraction, whole = math.modf(seconds)
    return Timestamp(seconds=int(whole), nanos=int(fraction * 1e9))


def duration(seconds: float) -> Duration:
    """A duration."""
    fraction, whole = math.modf(seconds)
    return Duration(seconds=int(whole), nanos=int(fraction * 1e9))


def text(value: str) -> str:
    """A text that protobuf can carry."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return "".join(printable(it) if "\ud800" <= it <= "\udfff" else it for it in value)
    return value
