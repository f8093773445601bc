"""The last good answers of one method, to be given again when the server gives none.

1.  Answers are found by a key that the adapters make of the request. What an answer is, they know alone: here it is an
    object with a size.
2.  The answers are bounded in number and in bytes. Above that the one that was used longest ago is evicted; to be kept
    and to be found are both uses.
3.  An answer older than `max_age` is not found. It is not removed for its age: it may be wanted after all, once a new
    policy allows it to be older, and what it takes is bounded without that.

Threads. There is no lock: to enter an answer, to find it, to evict the oldest, and to move one to the end are single
steps of a dictionary. The bytes are the sum of what every entry *counts for*, and an entry that is not in the
dictionary counts for nothing: a caller that finds one, because another thread evicted it meanwhile, puts that right. An
exception that arrives between two steps can leave an evicted entry counted, until the last one is evicted.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from grpc_breaker._core.fallback import LastGood


class _Entry:
    """The place of one answer."""

    __slots__ = ("answer", "at", "size")

    def __init__(self) -> None:
        self.answer: Any = None
        self.at = -math.inf
        self.size = 0
        """What it counts for, in bytes."""


class LastGoodAnswers:
    """Remembers answers, and forgets those that were used longest ago. Safe to use from any thread; never waits."""

    __slots__ = ("_clock", "_entries", "_limits", "bytes")

    def __init__(self, limits: LastGood, clock: Callable[[], float]) -> None:
        """Make an empty one.

        Args:
            limits: How many answers, how large together, and how old.
            clock: Seconds that never run backwards.
        """
        self._limits = limits
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        """The one that was used longest ago is the first."""
        self.bytes = 0
        """What the answers take, with their keys."""

    @property
    def key_metadata(self) -> tuple[str, ...]:
        """The metadata that belongs to the keys, as long as this object lives."""
        return self._limits.key_metadata

    def __len__(self) -> int:
        """How many answers there are, those that are too old included."""
        return len(self._entries)

    def keep(self, key: bytes, answer: object, size: int) -> None:
        """Remember an answer in the place of the one before it; not one that is larger than all may be together.

        Args:
            key: What it will be found by.
            answer: Anything but `None`.
            size: Its bytes.
        """
        size += len(key)
        if size > self._limits.max_bytes:
            return
        now = self._clock()
        entries = self._entries
        while True:
            entry = entries.get(key) or entries.setdefault(key, _Entry())
            before = entry.answer  # ends no sooner than this, so that nothing of its own runs inside the next line
            self.bytes, entry.size, entry.answer, entry.at = self.bytes + size - entry.size, size, answer, now
            if entries.get(key) is entry:  # pragma: no branch - else it was evicted meanwhile: tests/model
                break
            self._uncount(entry)  # pragma: no cover
        del before
        self._use(key)
        if len(entries) > self._limits.max_entries or self.bytes > self._limits.max_bytes:
            self._evict()

    def find(self, key: bytes) -> Any:
        """The last answer that was kept under a key; `None` where there is none, or where it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        answer, at = entry.answer, entry.at
        if self._clock() - at > self._limits.max_age:
            return None
        self._use(key)
        return answer

    def reconfigure(self, limits: LastGood) -> None:
        """Put other limits in force, in place. `key_metadata` must be the same: it says what the keys mean."""
        self._limits = limits
        self._evict()

    def _use(self, key: bytes) -> None:
        try:
            self._entries.move_to_end(key)
        except KeyError:  # pragma: no cover - evicted meanwhile
            return

    def _evict(self) -> None:
        entries, limits = self._entries, self._limits
        while len(entries) > limits.max_entries or self.bytes > limits.max_bytes:
            try:
                _, entry = entries.popitem(last=False)
            except KeyError:  # pragma: no cover - others have evicted everything, or an interrupt left some counted
                self.bytes = 0
                return
            self._uncount(entry)

    def _uncount(self, entry: _Entry) -> None:
        """Count an entry for nothing, because it is not in the dictionary."""
        self.bytes, entry.size = self.bytes - entry.size, 0
