"""Calls as a record: the JSON lines that `TrafficRecorder` writes, each as its call ended."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from grpc_breaker._replay.calls import Call
from grpc_breaker._replay.json_lines import HEADER, VERSION


def write_record(calls: Iterable[Call], path: str | PathLike[str]) -> int:
    """Write calls as a record.

    Args:
        calls: In the order of their starts.
        path: The file; what was in it is lost.

    Returns:
        How many calls were written.

    Raises:
        OSError: The file cannot be written.
    """
    written = 0
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for call in _as_they_end(calls):
            if not written:
                file.write(json.dumps({HEADER: VERSION, "started": call.time}) + "\n")
            file.write(json.dumps(_row(call), ensure_ascii=False) + "\n")
            written += 1
    return written


def _as_they_end(calls: Iterable[Call]) -> Iterator[Call]:
    """Calls in the order of their ends."""
    running: list[tuple[float, int, Call]] = []
    for number, call in enumerate(calls):
        while running and running[0][0] <= call.time:
            yield heapq.heappop(running)[2]
        heapq.heappush(running, (call.time + call.duration, number, call))
    while running:
        yield heapq.heappop(running)[2]


def _row(call: Call) -> dict[str, Any]:
    """A call as a line has it: what is not said is not there."""
    default = Call._field_defaults
    return {name: it for name, it in call._asdict().items() if name not in default or it != default[name]}
