"""How many calls ended with which outcome since the beginning, for a bounded number of labels.

A breaker adds to the counts of its label, one step for each call, and so do the breakers of the same name before and
after it. So a name that is evicted and comes back goes on counting where it was, and a call that is under way while its
breaker is evicted is counted all the same.

A name that was configured is its own label, and so are the first `max_labels` others; all further names count as
`other`. For configured names at targets there is room for as many again. A client that makes up method names can
therefore not make up time series, nor fill memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Self

from grpc_breaker._core.state import OTHER, Outcome, RefusalReason
from grpc_breaker._core.target import split_target

SUCCESS: Final = str(Outcome.SUCCESS)
FAILURE: Final = str(Outcome.FAILURE)
IGNORED: Final = str(Outcome.IGNORED)
STALE: Final = "stale"
REJECTED: Final = "rejected"
UNENFORCED: Final = "unenforced"
OUTCOMES: Final = (SUCCESS, FAILURE, IGNORED, STALE, REJECTED, UNENFORCED)
RETRY: Final = "retry"
FALLBACK: Final = "fallback"
"""Kept with the calls, and no outcomes: attempts after the first, and calls that a fallback answered, by its kind."""

HUNG_STATUS: Final = "HUNG"
"""The status under which a hung call is counted."""

_MAX_STATUSES: Final = 100
"""Pairs of outcome and status counted by name; more can only come from free text, and count as "other"."""


class CallCounts:
    """The calls of one label. An addition contains no call, so that no other thread runs inside it."""

    __slots__ = ("failures", "others", "rejected", "successes")

    def __init__(self) -> None:
        self.successes = 0
        """Calls that ended well: with OK, or without a status."""
        self.failures: dict[str, int] = {}
        """By status. `add` makes the entries."""
        self.others: dict[tuple[str, str], int] = {}
        """All other calls, by outcome and status."""
        self.rejected = 0
        """Refusals by the breaker itself; those by limits are among the others."""

    def add_success(self, status: str) -> None:
        """Count a call that ended well."""
        if status == "OK" or not status:
            self.successes += 1
        else:
            self.add(SUCCESS, status)

    def add_failure(self, status: str) -> None:
        """Count a failure."""
        try:
            self.failures[status] += 1
        except KeyError:
            _add(self.failures, OTHER if self._crowded() else status)

    def add(self, outcome: str, status: str) -> None:
        """Count a call that ended in any other way."""
        key = (outcome, status)
        try:
            self.others[key] += 1
        except KeyError:
            _add(self.others, (outcome, OTHER) if self._crowded() else key)

    def _crowded(self) -> bool:
        return len(self.failures) + len(self.others) >= _MAX_STATUSES

    def clear(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        """Forget everything: in a forked child, the calls were the parent's."""
        self.successes = self.rejected = 0
        self.failures, self.others = {}, {}

    def tallies(self) -> dict[tuple[str, str], int]:
        """How many calls ended how: {(outcome, status): calls}; of refusals, by what refused them.

        Retries and answers of fallbacks are among them.
        """
        tallies = self.others.copy()
        for status, calls in self.failures.copy().items():
            tallies[FAILURE, status] = tallies.get((FAILURE, status), 0) + calls
        if self.successes:
            tallies[SUCCESS, "OK"] = tallies.get((SUCCESS, "OK"), 0) + self.successes
        if self.rejected:
            by_breaker = (REJECTED, str(RefusalReason.BREAKER))
            tallies[by_breaker] = tallies.get(by_breaker, 0) + self.rejected
        return tallies

    def totals(self) -> dict[str, int]:
        """How many calls ended how, whatever their status: {outcome: calls}."""
        totals = dict.fromkeys(OUTCOMES, 0)
        for (outcome, _), calls in self.ended().items():
            totals[outcome] += calls
        return totals

    def ended(self) -> dict[tuple[str, str], int]:
        """The tallies without retries and fallbacks."""
        return {key: calls for key, calls in self.tallies().items() if key[0] in OUTCOMES}

    def refusals(self) -> dict[str, int]:
        """How many calls were refused, by what refused them."""
        return {reason: calls for (outcome, reason), calls in self.tallies().items() if outcome == REJECTED}

    def answered(self) -> dict[str, int]:
        """How many calls a fallback answered, by its kind."""
        return {kind: calls for (what, kind), calls in self.others.copy().items() if what == FALLBACK}


def _add(counted: dict[Any, int], key: Any) -> None:
    if key not in counted:
        counted.setdefault(key, 0)
    counted[key] += 1


_all_counts: weakref.WeakSet[LabelledCounts] = weakref.WeakSet()
"""Those of every registry of the process, for forked children."""


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
    for counts in tuple(_all_counts):
        counts.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


class LabelledCounts:
    """The counts of a registry, by label. Safe to use from any thread; outlives the registry where it is kept."""

    def __init__(self, configured: Iterable[str], max_labels: int) -> None:
        """Make empty counts; `configured` names are always labels of their own."""
        self._configured = frozenset(configured)
        self._by_label = {name: CallCounts() for name in self._configured}
        _all_counts.add(self)
        self._most_labels = len(self._by_label) + max_labels
        self._most_with_targets = self._most_labels + 1 + max_labels
        """With `other`, which is there by then: made-up names do not take the place of a configured one at a target."""

    @classmethod
    def of_one(cls, name: str, counts: CallCounts) -> Self:
        """The counts of a breaker without a registry, by its name."""
        labelled = cls((), 0)
        labelled._by_label[name] = counts
        return labelled

    def of(self, name: str) -> CallCounts:
        """The counts that a breaker of this name adds to."""
        most = self._most_with_targets if split_target(name)[0] in self._configured else self._most_labels
        label = name if name in self._by_label or len(self._by_label) < most else OTHER
        return self._by_label.setdefault(label, CallCounts())

    def configure(self, names: Iterable[str]) -> None:
        """Make names labels of their own, besides those that are already."""
        new = frozenset(names) - self._configured
        for name in new:
            self._by_label.setdefault(name, CallCounts())
        self._configured |= new
        self._most_labels += len(new)
        self._most_with_targets += len(new)

    def label(self, name: str) -> str:
        """The label under which a breaker of this name is counted."""
        return name if name in self._by_label else OTHER

    def tallies(self) -> Iterator[tuple[str, str, str, int]]:
        """How many calls ended how: (label, outcome, status, calls)."""
        for label, counts in self._by_label.copy().items():
            for (outcome, status), calls in counts.tallies().items():
                yield label, outcome, status, calls

    def clear(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        """Forget everything, evicted breakers' calls, too; the breakers of each label go on counting."""
        for counts in list(self._by_label.values()):
            counts.clear()

    def add_all(self, totals: Mapping[tuple[str, str, str], int]) -> None:
        """Add what others have counted, each label as its own."""
        for (label, outcome, status), calls in totals.items():
            counts = self._by_label.setdefault(label, CallCounts())
            counts.others[outcome, status] = counts.others.get((outcome, status), 0) + calls


def summed(counted: Iterable[LabelledCounts]) -> dict[tuple[str, str, str], int]:
    """How many calls ended how in all of these: {(label, outcome, status): calls}."""
    totals: dict[tuple[str, str, str], int] = {}
    for counts in counted:
        for label, outcome, status, calls in counts.tallies():
            key = (label, outcome, status)
            totals[key] = totals.get(key, 0) + calls
    return totals
