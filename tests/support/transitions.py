"""The legal changes of a breaker's state, written down once more, so that the package's own table is held to them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from grpc_breaker import StateChange

_TRIPS: Final = {"failure_threshold", "consecutive_failures", "failure_rate", "slow_call_rate"}
_EVERY: Final = ("closed", "open", "half_open", "forced_open", "disabled")

LEGAL: Final[set[tuple[str, str, str]]] = {
    *(("closed", "open", reason) for reason in _TRIPS),
    ("open", "half_open", "reset_timeout"),
    ("half_open", "closed", "probes_succeeded"),
    ("half_open", "open", "probe_failed"),
    ("half_open", "open", "probe_slow"),
    *((state, "forced_open", "forced_open") for state in _EVERY if state != "forced_open"),
    *((state, "disabled", "disabled") for state in _EVERY if state != "disabled"),
    *((state, "closed", "reset") for state in _EVERY if state != "closed"),
    *((state, "closed", "hold_expired") for state in ("forced_open", "disabled")),
}
"""State before, state after, reason."""


def check_events(changes: Iterable[StateChange]) -> None:
    """Check that events follow each other without a gap, each once and in order, and that each change is legal."""
    changes = list(changes)
    assert [change.sequence for change in changes] == list(range(1, len(changes) + 1))
    assert {(change.previous, change.state, change.reason) for change in changes} <= LEGAL
    assert all(before.state is after.previous for before, after in pairwise(changes))
    assert not changes or changes[0].previous == "closed"
