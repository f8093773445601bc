"""One breaker over all processes that have it: what the page shows of it in one row.

Its state is the worst one of the connected processes: one process whose breaker is open is what the operator looks for.
"""

from __future__ import annotations

import json
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from grpc_breaker._web.process import Process
from grpc_breaker._web.rates import Counts, Rates
from grpc_breaker._web.strip import LETTERS, NOTHING, Strip
from grpc_breaker.admin.v1 import admin_pb2 as pb

WORST_LAST: Final = list(LETTERS)
UNKNOWN: Final = "unknown"
"""The state of a breaker of which no process can be asked, or one that only a newer version knows."""
STATES: Final = {state: pb.State.Name(state).removeprefix("STATE_").lower() for state in LETTERS}


def seconds_of(time: Timestamp) -> float:
    """A time in seconds since the epoch."""
    return time.seconds + time.nanos / 1e9


class Seen:
    """What one process said of one breaker last."""

    __slots__ = ("_counts", "held_until", "rates", "said")

    def __init__(self, now: float) -> None:
        self.said = pb.Breaker()
        self.rates = Rates(now)
        self.held_until: float | None = None
        """When its hold ends, by our clock; `None` without one, and where only another order ends it."""
        self._counts = Counts()

    def take(self, said: pb.Breaker, now: float, *, first: bool) -> Counts:
        """Keep what was said; returns what was counted since it was said before, nothing where it is the first time."""
        ended = said.successes + said.failures + said.ignored + said.stale
        counts = Counts(ended + said.rejected, said.failures, said.rejected)
        new = Counts() if first else counts.since(self._counts)
        self._counts = counts
        self.rates.add(now, new)
        self._note_hold(said, now)
        self.said = said
        return new

    def _note_hold(self, said: pb.Breaker, now: float) -> None:
        if not said.hold.HasField("remaining"):
            self.held_until = None
        elif self.held_until is None or said.hold != self.said.hold:
            until = now + said.hold.remaining.seconds + said.hold.remaining.nanos / 1e9
            if self.held_until is None or abs(until - self.held_until) > 2:  # else the way here took longer than before
                self.held_until = round(until, 1)

    @property
    def since(self) -> float | None:
        """When it came into its state."""
        return seconds_of(self.said.since) if self.said.HasField("since") else None

    def hold(self) -> dict[str, Any] | None:
        """Its hold; `None` without one."""
        if not self.said.HasField("hold"):
            return None
        return {"reason": self.said.hold.reason, "until": self.held_until}


class Row:
    """One breaker over all processes that have it."""

    __slots__ = ("_unhealthy_since", "calm", "name", "rates", "seen", "strip", "text", "version")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.seen: dict[Process, Seen] = {}
        self.rates = Rates(now)
        self.strip = Strip(now)
        self._unhealthy_since: float | None = None
        """When it left closed, as far as was seen; an open breaker is half-open again and again."""
        self.text = ""
        """What was published last, as JSON."""
        self.version = 0
        """When that was."""
        self.calm = False
        """Nothing of what was published changes with time alone."""

    def take(self, process: Process, said: pb.Breaker, now: float, *, first: bool) -> None:
        """Keep what a process said of it."""
        seen = self.seen.get(process)
        if seen is None:
            seen = self.seen[process] = process.breakers[said.name] = Seen(now)
        new = seen.take(said, now, first=first)
        self.rates.add(now, new)
        self.strip.add_failures(now, new.failures)

    def write(self, now: float) -> bool:
        """Write its text anew; returns whether it is another one."""
        text = json.dumps(self._data(now), separators=(",", ":"))
        changed, self.text = text != self.text, text
        return changed

    def _data(self, now: float) -> dict[str, Any]:
        connected = [seen for process, seen in self.seen.items() if process.connected]
        shown = _worst(connected or list(self.seen.values()))
        state = STATES.get(shown.said.state, UNKNOWN)
        self.strip.note(now, LETTERS.get(shown.said.state, NOTHING) if connected else NOTHING)
        calls, failures, refusals = self.rates.read(now)
        recent = self.strip.text(now, 2)
        self.calm = not calls and recent[1] == recent[3] == "0" and recent[0] == recent[2]
        if shown.said.state not in {pb.STATE_OPEN, pb.STATE_HALF_OPEN}:
            self._unhealthy_since = None
        elif self._unhealthy_since is None:
            self._unhealthy_since = shown.since
        held = [seen for seen in connected if seen.said.HasField("hold")]
        return {
            "name": self.name,
            "state": state if connected else UNKNOWN,
            "last_known": state,
            "in_state": sum(seen.said.state == shown.said.state for seen in connected),
            "processes": len(connected),
            "lost": len(self.seen) - len(connected),
            "since": shown.since,
            "unhealthy_since": self._unhealthy_since,
            "condition": shown.said.condition,
            "failure": _last_failure(shown, connected),
            "refusals": refusals,
            "failures": failures,
            "calls": calls,
            "in_flight": sum(seen.said.in_flight for seen in connected),
            "hung": sum(seen.said.hung for seen in connected),
            "hold": _hold(held),
            "trial": not all(seen.said.enforced for seen in connected),
            "recent": recent,
        }


def _worst(seen: list[Seen]) -> Seen:
    """The one in the worst state; of several, that which came into it first."""
    return max(seen, key=lambda it: (severity(it.said.state), -(it.since or 0.0)))


def severity(state: pb.State.ValueType) -> int:
    """How much a state asks for an operator; -1 for one that only a newer version knows."""
    return WORST_LAST.index(state) if state in LETTERS else -1


def _last_failure(shown: Seen, connected: list[Seen]) -> list[str] | None:
    for seen in (shown, *connected):
        if seen.said.HasField("last_failure"):
            return [seen.said.last_failure.status, seen.said.last_failure.details]
    return None


def _hold(held: list[Seen]) -> dict[str, Any] | None:
    """The hold that ends last, and how many processes have one."""
    if not held:
        return None
    last = max(held, key=lambda it: float("inf") if it.held_until is None else it.held_until)
    return {"reason": last.said.hold.reason, "until": last.held_until, "processes": len(held)}
