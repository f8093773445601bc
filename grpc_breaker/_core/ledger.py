"""The books of a registry: its breakers by name, and how many calls ever ended how, under a bounded number of labels.

They outlive the registry where somebody keeps them: a counter that has been exported must never fall because an
application let go of a channel.

Labels. A name that was configured always counts under itself, and so do the first `max_labels` others; every other name
counts as `other`, so that a client that makes up method names cannot make up time series.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Final

from grpc_breaker._core.breaker import CircuitBreaker

OTHER: Final = "other"
"""The label of every name beyond those that have one of their own."""


class Ledger:
    """What a registry knows of its breakers. Safe to use from any thread."""

    def __init__(self, configured: frozenset[str], max_labels: int) -> None:
        """Make empty books; `configured` names always have a label of their own."""
        self.breakers: dict[str, CircuitBreaker] = {}
        self.lock = threading.RLock()
        """Held while the books change, by the registry too."""
        self._configured = configured
        self._max_labels = max_labels
        self._labelled: set[str] = set()
        self._retired: dict[tuple[str, str, str], int] = {}

    def enter(self, breaker: CircuitBreaker) -> CircuitBreaker:
        """Take a breaker into the books, unless one of its name is there; answers the one that is."""
        with self.lock:
            if breaker.name not in self._configured and len(self._labelled) < self._max_labels:
                self._labelled.add(breaker.name)
            return self.breakers.setdefault(breaker.name, breaker)

    def retire(self, breakers: Iterable[CircuitBreaker]) -> None:
        """Keep what breakers counted that were taken out. Without the lock: they may have something to deliver."""
        for breaker in breakers:
            tallies = breaker._take_tallies()
            with self.lock:
                tally(self._retired, self.label(breaker.name), tallies)

    def label(self, name: str) -> str:
        """The name under which a breaker is counted."""
        return name if name in self._configured or name in self._labelled else OTHER

    def tallies(self) -> Iterator[tuple[str, str, str, int]]:
        """How many calls ended how, forgotten breakers included: (label, outcome, status, calls).

        What is on its way from a breaker to the books at this moment may be missing; nothing is ever told twice.
        """
        with self.lock:
            totals = dict(self._retired)
            breakers = tuple(self.breakers.values())
        for breaker in breakers:
            tally(totals, self.label(breaker.name), breaker.tallies())
        return ((*key, calls) for key, calls in totals.items())


def tally(totals: dict[tuple[str, str, str], int], label: str, tallies: dict[tuple[str, str], int]) -> None:
    """Add a breaker's tallies to totals by label."""
    for (outcome, status), calls in tallies.items():
        key = (label, outcome, status)
        totals[key] = totals.get(key, 0) + calls
