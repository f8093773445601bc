"""What all watched processes said, merged, and what of it is news to a reader of the page.

Every row has the number of the publication in which it changed last. A reader asks for what is newer than what it has,
so readers that are slow, or many, cost no memory: each gets the newest state of what changed meanwhile, once. One that
has missed more than is remembered gets everything.

Memory is bounded by the number of rows and of processes. Safe to use from several threads.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from threading import Condition
from typing import Any, Final

from grpc_breaker._web.process import CONNECTED, GONE, UNREACHABLE, Process
from grpc_breaker._web.row import Row, Seen, severity
from grpc_breaker._web.strip import CELLS, SECONDS, cell_of
from grpc_breaker.admin.v1 import admin_pb2 as pb

MOST_ROWS: Final = 5000
MOST_PROCESSES: Final = 1000
REMEMBERED: Final = 300.0
"""Seconds for which a process that is gone is shown, and the breakers of one that cannot be reached."""
_REMOVALS: Final = 1000
"""How many rows that are gone are remembered for readers that still have them."""


class Fleet:
    """The merged state."""

    def __init__(self, clock: Callable[[], float] = time.time, *, most_rows: int = MOST_ROWS) -> None:
        self._clock = clock
        self._most_rows = most_rows
        self._lock = Condition()
        self._numbers = count(1)
        self._processes: dict[str, Process] = {}
        """By target: those that are watched."""
        self._gone: list[Process] = []
        self._rows: dict[str, Row] = {}
        self._dirty: set[str] = set()
        self._left_out: set[str] = set()
        """Breakers beyond the limit. Bounded by what one process may say."""
        self._removed: deque[tuple[int, str]] = deque(maxlen=_REMOVALS)
        self._version = 1
        self._processes_text = "[]"
        self._processes_version = 0
        self._urgent = False
        self._closed = False

    # What watchers say

    def add(self, target: str) -> bool:
        """A process is watched from now on; returns False where there are too many."""
        with self._lock:
            if target not in self._processes and len(self._processes) >= MOST_PROCESSES:
                return False
            self._processes.setdefault(target, Process(next(self._numbers), target, self._clock()))
            return True

    def connected(self, target: str, about: pb.Process, breakers: Iterable[pb.Breaker], *, polled: bool) -> None:
        """A process has answered for the first time since it could not be reached, with everything it has."""
        with self._lock:
            now = self._clock()
            process = self._processes[target]
            if not process.is_same(about):
                self._bid_farewell(process, "another process answers at its target", now)
                process = self._processes[target] = Process(next(self._numbers), target, now)
            process.about = about
            process.polled = polled
            process.become(CONNECTED, now)
            self._dirty.update(process.breakers)
            self._replace(process, breakers, now, first=True)
            self._publish_soon()

    def replaced(self, target: str, about: pb.Process, breakers: Iterable[pb.Breaker]) -> None:
        """A process that is polled has answered again, with everything it has."""
        if not self._processes[target].is_same(about):
            self.connected(target, about, breakers, polled=True)
            return
        with self._lock:
            self._replace(self._processes[target], breakers, self._clock(), first=False)
            self._publish_soon()

    def updated(self, target: str, response: pb.WatchBreakersResponse) -> None:
        """A process that is watched has said what changed."""
        with self._lock:
            process = self._processes[target]
            self._take(process, response.breakers, self._clock(), first=False)
            for name in response.removed:
                self._forget(process, name)
            if response.changes or response.removed:
                self._publish_soon()

    def lost(self, target: str, why: str) -> None:
        """A process cannot be reached."""
        with self._lock:
            process = self._processes[target]
            process.become(UNREACHABLE, self._clock(), why)
            self._dirty.update(process.breakers)
            self._publish_soon()

    def remove(self, target: str, why: str) -> None:
        """A process is watched no longer, because it is gone."""
        with self._lock:
            self._bid_farewell(self._processes.pop(target), why, self._clock())
            self._publish_soon()

    def _bid_farewell(self, process: Process, why: str, now: float) -> None:
        process.become(GONE, now, why)
        self._gone.append(process)
        del self._gone[:-MOST_PROCESSES]
        self._forget_all(process)

    def _replace(self, process: Process, breakers: Iterable[pb.Breaker], now: float, *, first: bool) -> None:
        listed = list(breakers)
        for name in set(process.breakers).difference(it.name for it in listed):
            self._forget(process, name)
        self._take(process, listed, now, first=first)

    def _take(self, process: Process, breakers: Iterable[pb.Breaker], now: float, *, first: bool) -> None:
        for said in breakers:
            row = self._rows.get(said.name)
            if row is None:
                if len(self._rows) >= self._most_rows:
                    self._left_out.add(said.name)
                    continue
                row = self._rows[said.name] = Row(said.name, now)
            row.take(process, said, now, first=first)
            self._dirty.add(said.name)

    def _forget(self, process: Process, name: str) -> None:
        self._left_out.discard(name)
        if process.breakers.pop(name, None) is not None:
            self._rows[name].seen.pop(process)
            self._dirty.add(name)

    def _forget_all(self, process: Process) -> None:
        for name in list(process.breakers):
            self._forget(process, name)

    def _publish_soon(self) -> None:
        self._urgent = True
        self._lock.notify_all()

    # Publishing

    def wait_for_news(self, patience: float) -> None:
        """Wait until there is something to publish at once, or for so many seconds."""
        with self._lock:
            self._lock.wait_for(lambda: self._urgent or self._closed, patience)

    def publish(self) -> None:
        """Show readers what has changed."""
        with self._lock:
            now = self._clock()
            self._urgent = False
            self._forget_old(now)
            version = self._version + 1
            changed = self._write_rows(now, version)
            processes = json.dumps(
                {"list": [it.as_dict() for it in self._listed()], "left_out": len(self._left_out)},
                separators=(",", ":"),
            )
            if processes != self._processes_text:
                self._processes_text, self._processes_version, changed = processes, version, True
            if changed:
                self._version = version
                self._lock.notify_all()

    def _write_rows(self, now: float, version: int) -> bool:
        changed = False
        dirty, self._dirty = self._dirty, set()
        for name in [row.name for row in self._rows.values() if not row.calm or row.name in dirty]:
            row = self._rows[name]
            if not row.seen:
                del self._rows[name]
                self._removed.append((version, name))
                changed = True
            elif row.write(now):
                row.version, changed = version, True
        return changed

    def _forget_old(self, now: float) -> None:
        self._gone = [it for it in self._gone if now - it.since < REMEMBERED]
        for process in self._processes.values():
            if process.status == UNREACHABLE and now - process.since >= REMEMBERED:
                self._forget_all(process)

    def _listed(self) -> list[Process]:
        return [*self._processes.values(), *self._gone]

    # What readers ask

    def news(self, version: int, patience: float) -> tuple[int, str] | None:
        """What is newer than a version, as JSON, and its version.

        Args:
            version: That of what the reader has; 0 for one that has nothing.
            patience: For how many seconds to wait for news; then the answer says the time alone.

        Returns:
            `None` where the fleet is closed.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._version > version or self._closed, patience)
            if self._closed:
                return None
            now = self._clock()
            known_from = self._removed[0][0] if len(self._removed) == _REMOVALS else 1
            full = version < known_from
            rows = [it for it in self._rows.values() if it.text and (full or it.version > version)]
            parts = [
                f'"now":{now:.3f},"cell":{cell_of(now)}',
                f'"rows":[{",".join(row.text for row in rows)}]',
            ]
            if full:
                strips = {row.name: row.strip.text(now) for row in rows}
                parts.append(f'"full":true,"cells":{CELLS},"seconds":{SECONDS},"strips":{json.dumps(strips)}')
            else:
                removed = [name for when, name in self._removed if when > version and name not in self._rows]
                parts.append(f'"removed":{json.dumps(removed)}')
            if full or self._processes_version > version:
                parts.append(f'"processes":{self._processes_text}')
            return self._version, f"{{{','.join(parts)}}}"

    def having(self, name: str) -> list[tuple[Process, Seen]]:
        """The processes that have a breaker, the worst first, and what they said of it."""
        with self._lock:
            row = self._rows.get(name)
            seen = [] if row is None else list(row.seen.items())
        return sorted(seen, key=lambda it: (not it[0].connected, -severity(it[1].said.state), it[0].number))

    def now(self) -> float:
        """The time, by the clock of everything here."""
        return self._clock()

    def statuses(self) -> list[dict[str, Any]]:
        """Every process, those that are gone last."""
        with self._lock:
            return [it.as_dict() for it in self._listed()]

    def close(self) -> None:
        """End the waits of all readers."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
