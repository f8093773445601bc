"""What a snapshot of a breaker shows: everything about it at one moment, as plain data ready for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grpc_breaker._core.admission import Admission
from grpc_breaker._core.counts import RETRY
from grpc_breaker._core.events import plain
from grpc_breaker._core.target import split_target


def snapshot_of(breaker: Admission) -> dict[str, Any]:
    """The snapshot; see `CircuitBreaker.snapshot`."""
    generation = breaker._after_hold()
    now = breaker._clock()
    calls, failures, slow = generation.held(now)
    return {
        "name": breaker.name,
        "target": split_target(breaker.name)[1],
        "state": str(generation.state),
        "retry_after": generation.refusing.retry_after(now),
        "reason": None if generation.passes else str(generation.refusing.condition),
        "hold": None if generation.hold is None else generation.hold.as_dict(now),
        "in_flight": breaker._sweep(now),
        "hung": hanging(breaker, now),
        "generation": generation.number,
        "sequence": generation.sequence,
        "window": {
            "calls": calls,
            "failures": failures,
            "slow": slow,
            "consecutive_failures": generation.window.in_a_row,
        },
        "totals": breaker._counts.totals(),
        "refusals": breaker._counts.refusals(),
        "retries": breaker._counts.others.get((RETRY, ""), 0),
        "fallbacks": breaker._counts.answered(),
        "limits": None if breaker._limits is None else breaker._limits.as_dict(generation.window, now),
        "last_failures": [asdict(it) for it in generation.last_failures()],
        "since": generation.history[-1].time if generation.history else None,
        "changes": [plain(change) for change in generation.history],
        "policy": breaker._policy.as_dict(),
    }


def hanging(breaker: Admission, now: float) -> int:
    """How many calls have been in flight for longer than `hung_after`, counted as failures or not.

    Told by their time alone: the calls that an open breaker refuses look for none.
    """
    hung_after = breaker._policy.hung_after
    if hung_after is None:
        return 0
    return sum(permit.timed and now - permit.started > hung_after for permit in list(breaker._in_flight))
