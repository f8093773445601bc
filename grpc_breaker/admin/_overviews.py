"""Overviews of the breakers of a process: made once for all who list and watch them.

An overview has every breaker as it was seen last, encoded, and the last changes of state. A new one is made when
somebody asks for it: states are compared each time, which costs a third of a microsecond for each breaker; counts at
most every fifth of a second. Overviews are never changed, so they are read without a lock; making one holds a lock that
only the threads of the admin service take, never one that makes calls.

Responses are put together from encoded parts: protobuf says that messages whose bytes are joined are one message, with
the repeated fields of all of them.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import deque
from typing import Any, Final, NamedTuple

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.events import StateChange
from grpc_breaker._core.overview import Summary, generation_of, summary_of
from grpc_breaker._core.registry import Registry
from grpc_breaker.admin._messages import STATES, breaker_message, change_message
from grpc_breaker.admin.v1 import admin_pb2

FRESH: Final = 0.2
"""Seconds for which counts are not looked at again."""

_MOST_CHANGES: Final = 1000
"""Changes that are kept for watchers who are late."""

_AT_ONCE: Final = 100
"""Breakers that are looked at before other threads get a turn."""


class Entry:
    """A breaker as it was seen, and the part of a response that says so, encoded."""

    __slots__ = ("_encoded", "_hide", "_made", "breaker", "name", "seen", "state", "version")

    def __init__(self, breaker: CircuitBreaker, seen: Summary, version: int, hide_details: bool) -> None:
        self.breaker = weakref.ref(breaker)  # one that is evicted may go
        self.name = seen.name
        self.seen = seen
        self.state = STATES[seen.state]
        self.version = version
        """Of the overview in which it was another one than before."""
        self._hide = hide_details
        self._made = time.monotonic()
        self._encoded = self._encode(breaker)

    def encoded(self) -> bytes:
        """The part of a response; times that are left are those that are left now."""
        if self.seen.until > -math.inf or self.seen.hold is not None:  # else no time is left for anything
            now = time.monotonic()
            breaker = self.breaker()
            if now - self._made > FRESH and breaker is not None:
                self._made, self._encoded = now, self._encode(breaker)
        return self._encoded

    def _encode(self, breaker: CircuitBreaker) -> bytes:
        message = breaker_message(breaker, self.seen, self._hide)
        return admin_pb2.ListBreakersResponse(breakers=[message]).SerializeToString()


class Change:
    """A change of state, and the part of a response that says so, encoded."""

    __slots__ = ("breaker", "encoded", "states", "version")

    def __init__(self, change: StateChange, version: int, hide_details: bool) -> None:
        self.breaker = change.breaker
        self.states = (STATES[change.previous], STATES[change.state])
        self.version = version
        message = change_message(change, hide_details)
        self.encoded = admin_pb2.WatchBreakersResponse(changes=[message]).SerializeToString()


class Overview(NamedTuple):
    """All breakers as they were seen at one moment."""

    version: int
    entries: dict[str, Entry]
    """By name, in the order of the names."""
    changes: tuple[Change, ...]
    """The last ones, the oldest first."""
    responses: dict[Any, Any]
    """What watchers were told of it, for others who want the same and knew the same before."""


class OverviewCache:
    """Makes the overviews of the breakers of a registry. Safe to use from any thread."""

    def __init__(self, breakers: Registry, hide_details: bool) -> None:
        """Begin with an empty overview: nothing is looked at before somebody asks."""
        self._breakers = breakers
        self._hide = hide_details
        self._making = threading.Lock()
        self._changes: deque[Change] = deque(maxlen=_MOST_CHANGES)
        self._counted_at = -math.inf
        self.latest = Overview(0, {}, (), {})
        """The last one."""

    def recent(self) -> Overview:
        """An overview whose counts are at most as old as `FRESH`, and its states, too."""
        return self.latest if time.monotonic() - self._counted_at < FRESH else self.refresh()

    def refresh(self) -> Overview:
        """Make a new overview where something has changed: states are those of this moment, counts at most as old as
        `FRESH`.
        """
        with self._making:
            now = time.monotonic()
            counting = now - self._counted_at >= FRESH
            before = self.latest
            version = before.version + 1
            present = {breaker.name: breaker for breaker in self._breakers}
            gone = before.entries.keys() - present.keys()
            fresh: dict[str, Entry] = {}
            changes: list[StateChange] = []
            for number, (name, breaker) in enumerate(present.items()):
                if counting and number % _AT_ONCE == _AT_ONCE - 1:
                    time.sleep(0.0001)  # gives the interpreter to a thread that waits for it
                old = before.entries.get(name)
                known = None if old is None or old.breaker() is not breaker else old.seen
                if known is not None and not counting and known.generation == generation_of(breaker):
                    continue
                seen = summary_of(breaker)
                if seen == known:
                    continue
                fresh[name] = Entry(breaker, seen, version, self._hide)
                after = 0 if known is None else known.sequence
                changes += [it for it in breaker.changes if after < it.sequence <= seen.sequence]
            if counting:
                self._counted_at = now
            if not fresh and not gone and before.version:
                return before
            if before.version:  # what was before anyone looked is in the entries
                changes.sort(key=lambda change: change.time)
                self._changes.extend(Change(it, version, self._hide) for it in changes)
            entries = {name: entry for name, entry in before.entries.items() if name not in gone} | fresh
            if fresh.keys() - before.entries.keys():
                entries = dict(sorted(entries.items()))
            self.latest = Overview(version, entries, tuple(self._changes), {})
            return self.latest
