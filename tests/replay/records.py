"""Records for the tests: calls at round times, written as files of every format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grpc_breaker.replay import Call

BEGINS = 1_764_250_000.0
GET = "pricing.v1.Pricing/GetPrice"
HEADER = {"grpc_breaker_traffic": 1, "started": BEGINS, "host": "web-1", "pid": 7, "version": "0.1.0"}


def call(at: float, status: str = "OK", duration: float = 0.01, method: str = GET, **more: Any) -> Call:
    """A call that began so many seconds after the record."""
    return Call(BEGINS + at, method, duration, status, **more)


def every(seconds: float, begins: float, ends: float, status: str = "OK", **more: Any) -> list[Call]:
    """Calls at equal distances."""
    count = round((ends - begins) / seconds)
    return [call(begins + it * seconds, status, **more) for it in range(count)]


def outage(method: str = GET) -> list[Call]:
    """A minute of health, half a minute in which all calls fail, and a minute of health; ten calls a second."""
    well, ill = every(0.1, 0, 60, method=method), every(0.1, 60, 90, "UNAVAILABLE", method=method)
    return [*well, *ill, *every(0.1, 90, 150, method=method)]


def row(at: float, **more: Any) -> dict[str, Any]:
    """A line of a record."""
    return {"time": BEGINS + at, "method": GET, "duration": 0.01, "status": "OK", **more}


def lines(*rows: Any, header: Any = HEADER) -> str:
    """JSON lines; what is no dict is written as it is."""
    everything = [*([] if header is None else [header]), *rows]
    return "".join((it if isinstance(it, str) else json.dumps(it)) + "\n" for it in everything)


def written(path: Path, content: str | bytes) -> Path:
    """A file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """Lines in the order in which the calls ended."""
    ended = sorted(calls, key=lambda it: it.time + it.duration)
    return [{"time": it.time, "method": it.method, "duration": it.duration, "status": it.status} for it in ended]


def span(at: float, duration: float, *attributes: tuple[str, Any], kind: Any = 3, **more: Any) -> dict[str, Any]:
    """A span, as OTLP/JSON has it."""
    begins = int((BEGINS + at) * 1e9)
    return {
        "name": "span",
        "kind": kind,
        "startTimeUnixNano": str(begins),
        "endTimeUnixNano": str(begins + int(duration * 1e9)),
        "attributes": [{"key": key, "value": _value(value)} for key, value in attributes],
        **more,
    }


def _value(value: Any) -> dict[str, Any]:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def document(*spans: Any, scopes: str = "scopeSpans", **resource: str) -> dict[str, Any]:
    """A document of OTLP/JSON."""
    attributes = [{"key": key.replace("_", "."), "value": {"stringValue": it}} for key, it in resource.items()]
    return {"resourceSpans": [{"resource": {"attributes": attributes}, scopes: [{"spans": list(spans)}]}]}
