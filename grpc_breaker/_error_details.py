"""What a server says of an error in its trailing metadata: to come back later, and why it failed.

1.  `grpc-retry-pushback-ms` says when a call may be tried again (gRFC A6): a number of milliseconds; what is below 0,
    no number, or decades, says never.
2.  `grpc-status-details-bin` holds a `google.rpc.Status` with details: `ErrorInfo` gives a reason, `RetryInfo` a time.
    They can be read where googleapis-common-protos is installed; where it is not, there are none.
3.  Nothing is looked at but the metadata of calls that failed, and what is malformed there is not there: a server must
    not be able to break a call by what it says of an error.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from grpc_breaker._core.events import read_status_details_with
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once
from grpc_breaker._core.retrying import DO_NOT_RETRY

_PUSHBACK: Final = "grpc-retry-pushback-ms"
_DETAILS: Final = "grpc-status-details-bin"
_MILLISECONDS: Final = re.compile(r"\d{1,12}", re.ASCII)
"""Up to 1e9 seconds: no thread can wait for much longer."""


class _Classes(NamedTuple):
    """The messages of an error's details."""

    status: Any
    error_info: Any
    retry_info: Any


@cache
def _classes() -> _Classes | None:
    """The messages, imported by the first error that has details; `None` where they are not installed."""
    try:
        details = import_module("google.rpc.error_details_pb2")
        return _Classes(import_module("google.rpc.status_pb2").Status, details.ErrorInfo, details.RetryInfo)
    except ImportError:
        return None
    except Exception as error:  # generated for another protobuf, for one
        if passes_through(error):
            raise
        log_once("googleapis-common-protos cannot be imported; the details of errors are not read")
        return None


def _value(trailing_metadata: Any, wanted: str) -> Any:
    """The value of a key; `None` where it is not there, or other interceptors made something else of the metadata."""
    try:
        return next((value for key, value in trailing_metadata or () if key == wanted), None)
    except Exception as error:
        if passes_through(error):
            raise
        return None


def pushback(trailing_metadata: Any) -> float | None:
    """The seconds after which a call may be tried again; below 0 for never, `None` where the server does not say."""
    value = _value(trailing_metadata, _PUSHBACK)
    if value is None:
        return None
    return int(value) / 1000.0 if isinstance(value, str) and _MILLISECONDS.fullmatch(value) else DO_NOT_RETRY


def status_details(trailing_metadata: Any) -> Any:
    """The `google.rpc.Status` of an error; `None` where there is none that can be read."""
    value = _value(trailing_metadata, _DETAILS)
    if value is None or (classes := _classes()) is None:
        return None
    try:
        return classes.status.FromString(value)
    except Exception as error:  # malformed
        if passes_through(error):
            raise
        return None


def error_reasons(trailing_metadata: Any) -> list[str]:
    """The reasons that the details of an error give."""
    classes = _classes()
    return [] if classes is None else [it.reason for it in _unpacked(trailing_metadata, classes.error_info)]


def period_asked_for(trailing_metadata: Any) -> float | None:
    """For how many seconds the server asks to be left alone; `None` where it does not."""
    seconds = pushback(trailing_metadata)
    if seconds is not None:
        return seconds if seconds > 0.0 else None
    if _value(trailing_metadata, _DETAILS) is None or (classes := _classes()) is None:
        return None
    for info in _unpacked(trailing_metadata, classes.retry_info):
        delay = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
        if delay > 0.0:
            return float(delay)
    return None


def _unpacked(trailing_metadata: Any, message: Any) -> list[Any]:
    """The details of an error that are messages of a class."""
    details = status_details(trailing_metadata)
    if details is None:
        return []
    found: list[Any] = []
    for packed in details.details:
        unpacked = message()
        try:
            if packed.Unpack(unpacked):
                found.append(unpacked)
        except Exception as error:  # malformed
            if passes_through(error):
                raise
    return found


read_status_details_with(status_details)
