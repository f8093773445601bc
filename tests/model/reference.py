"""A circuit breaker as plain as can be, to hold the real one to. It shares no code with the package.

It keeps every result in a list and recounts them each time, knows nothing of threads, and is given the time. Slow,
obvious, and independent: where the two differ, one of them is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

LEASE_GRACE = 5.0
"""Seconds after its deadline at which a call is given up."""


@dataclass
class Rules:
    """The policy, field for field."""

    failure_threshold: int | None = None
    failure_rate: float | None = None
    minimum_calls: int = 1
    consecutive_failures: int | None = None
    slow_call_duration: float | None = None
    slow_call_rate: float | None = None
    window_seconds: float = 10.0
    window_calls: int | None = None
    reset_timeout: float = 5.0
    reset_timeout_multiplier: float = 1.0
    max_reset_timeout: float = 600.0
    half_open_max_calls: int = 1
    half_open_successes: int | None = None
    probe_timeout: float = 3.0


@dataclass(eq=False)
class Call:
    """One admitted call."""

    generation: int
    started: float
    probe: bool
    lease_end: float
    """When it is given up, if it has not ended by then."""
    slot_end: float
    """When its slot is free, of a probe."""
    deadline_lease_end: float
    """The same for its deadline alone: an answered probe has no other lease."""
    timed: bool = True
    """Whether it can be slow; a stream cannot."""
    settled: bool = False
    answered: bool = False
    given_up: bool = False
    """Whether a call has taken its slot."""


@dataclass
class Reference:
    """The breaker. Its jitter is off: the open period is exact."""

    rules: Rules
    now: float = 0.0
    state: str = "closed"
    generation: int = 0
    open_until: float = -math.inf
    held_until: float = math.inf
    """When what an operator has ordered is over."""
    reopened: int = 0
    born: float = 0.0
    results: list[tuple[float, bool, bool]] = field(default_factory=list)
    in_a_row: int = 0
    lengthened_at: float = -math.inf
    """When the row last became longer."""
    probes_won: int = 0
    hands_on_at: float = -math.inf
    """Until then, slots of ignored probes are not handed on, but for the first."""
    half_open_since: float = 0.0
    waiting: list[float] = field(default_factory=list)
    """When those that wait are."""
    calls: list[Call] = field(default_factory=list)
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    totals: dict[str, int] = field(
        default_factory=lambda: {"success": 0, "failure": 0, "ignored": 0, "rejected": 0, "stale": 0, "unenforced": 0}
    )

    def wait(self, seconds: float) -> None:
        """Time passes, and then the state is looked at, which ends a hold whose time is over."""
        self.now += seconds
        if self.now >= self.held_until:
            self.go("closed", "hold_expired")

    def admit(self, timeout: float | None = None, *, timed: bool = True) -> Call | None:
        """A call comes that has `timeout` seconds; a stream is not `timed`."""
        self.give_up()
        if self.admits():
            return self.let_in(timeout, timed=timed)
        self.totals["rejected"] += 1
        return None

    def give_up(self) -> None:
        """Probes lose their slots when the time for them is over. Streams that are open then, before their deadline, have
        succeeded.
        """
        for call in self.calls:
            if self.state == "half_open" and self.holds_slot(call) and call.slot_end <= self.now:
                call.given_up = True
                if not call.timed and call.slot_end < call.deadline_lease_end:
                    self.in_a_row = 0
                    self.win()

    def admits(self) -> bool:
        """Whether the state admits a call that comes now."""
        match self.state:
            case "closed" | "disabled":
                return True
            case "open":
                return self.now >= self.open_until
            case "half_open":
                return self.slots_taken() < self.rules.half_open_max_calls
            case _:
                return False

    def let_in(self, timeout: float | None, *, timed: bool = True) -> Call:
        """A call that the state admits goes its way; the first after an open period makes it half-open."""
        if self.state == "open":
            self.go("half_open", "reset_timeout")
        return self.hand_out(timeout, probe=self.state == "half_open", timed=timed)

    def hand_out(self, timeout: float | None, *, probe: bool, timed: bool = True) -> Call:
        """Note a call that is under way."""
        deadline_lease_end = math.inf if timeout is None else self.now + timeout + LEASE_GRACE
        lease = self.rules.probe_timeout if probe else math.inf
        if probe and timed:
            lease = max(lease, 4 * (self.now - self.half_open_since))
        lease_end = min(deadline_lease_end, self.now + lease)
        slot_end = min(deadline_lease_end, self.now + self.rules.probe_timeout)
        call = Call(self.generation, self.now, probe, lease_end, slot_end, deadline_lease_end, timed)
        self.calls.append(call)
        return call

    def expired(self, call: Call) -> bool:
        """Whether the lease of a call has ended."""
        return call.lease_end <= self.now

    def slots_taken(self) -> int:
        """Probes that hold a slot now."""
        taken = sum(self.holds_slot(call) and call.slot_end > self.now for call in self.calls)
        return taken + sum(at > self.now for at in self.waiting)

    def holds_slot(self, call: Call) -> bool:
        """Whether a call is a probe of this generation that has neither ended nor been answered, nor lost its slot."""
        ours = call.probe and call.generation == self.generation
        return ours and not call.settled and not call.answered and not call.given_up

    def in_flight(self) -> int:
        """Calls admitted that have neither ended nor been given up."""
        return sum(not call.settled and not self.expired(call) for call in self.calls)

    def settle(self, call: Call, outcome: str, pushback: float = 0.0) -> None:
        """A call ends. If that opens the breaker, it stays open for `pushback` seconds at least."""
        if call.settled:
            return
        held_slot = call.probe and not call.answered and not call.given_up
        wins = call.probe and not call.answered
        call.settled = True
        if self.expired(call) or call.generation != self.generation:
            self.totals["stale"] += 1
            return
        if call.answered and outcome == "ignored":
            outcome = "success"
        self.totals[outcome] += 1
        if outcome == "ignored":
            if self.state == "half_open" and held_slot:
                if self.now < self.hands_on_at:
                    self.waiting.append(self.hands_on_at)
                else:
                    self.hands_on_at = self.now + self.until_hand_on()
            if self.state in {"closed", "disabled"} and self.now - self.lengthened_at > self.rules.window_seconds:
                self.in_a_row = 0
            if self.state == "half_open" and self.now - self.half_open_since >= self.rules.probe_timeout:
                self.in_a_row = 0
                self.win()
            return
        self.count(call, failed=outcome == "failure", wins=wins, pushback=pushback)

    def until_hand_on(self) -> float:
        """Seconds to the next moment at which slots of ignored probes are handed on."""
        pause = min(self.rules.probe_timeout, self.rules.reset_timeout)
        return pause - self.now % pause

    def count(self, call: Call, *, failed: bool, wins: bool, pushback: float = 0.0) -> None:
        """Count what a call of the present generation says about the server."""
        limit = self.rules.slow_call_duration
        slow = limit is not None and call.timed and self.now - call.started > limit
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if failed:
            self.lengthened_at = self.now
        if self.state == "half_open":
            if failed or slow:
                self.go("open", "probe_failed" if failed else "probe_slow", pushback)
            elif wins:
                self.win()
            return
        self.results.append((self.now, failed, slow))
        if self.state == "closed" and (failed or slow):
            reason = self.tripped()
            if reason:
                self.go("open", reason, pushback)

    def answer(self, call: Call) -> None:
        """The first answer of a stream comes."""
        if call.settled or self.expired(call):
            return
        first = not call.answered
        call.answered = True
        if call.generation != self.generation:
            return
        if self.state != "half_open":
            self.in_a_row = 0
        elif first and not call.given_up:
            call.lease_end = call.deadline_lease_end
            self.in_a_row = 0
            self.win()

    def win(self) -> None:
        """One probe more has succeeded."""
        self.probes_won += 1
        if self.probes_won >= (self.rules.half_open_successes or self.rules.half_open_max_calls):
            self.go("closed", "probes_succeeded")

    def window(self) -> tuple[int, int, int]:
        """Calls, failures and slow ones that count now."""
        if self.rules.window_calls is not None:
            counted = self.results[-self.rules.window_calls :]
        else:
            width = self.rules.window_seconds / 10
            bucket = math.floor((self.now - self.born) / width)
            counted = [it for it in self.results if math.floor((it[0] - self.born) / width) > bucket - 10]
        return len(counted), sum(it[1] for it in counted), sum(it[2] for it in counted)

    def tripped(self) -> str | None:
        """Which condition holds."""
        rules = self.rules
        calls, failures, slow = self.window()
        if not failures and not slow:
            return None
        if rules.failure_threshold is not None and failures >= rules.failure_threshold:
            return "failure_threshold"
        if rules.consecutive_failures is not None and self.in_a_row >= rules.consecutive_failures:
            return "consecutive_failures"
        if calls >= rules.minimum_calls:
            if rules.failure_rate is not None and failures / calls >= rules.failure_rate:
                return "failure_rate"
            if rules.slow_call_rate is not None and slow / calls >= rules.slow_call_rate:
                return "slow_call_rate"
        return None

    def go(self, state: str, reason: str, pushback: float = 0.0) -> None:
        """Change the state."""
        previous, self.state = self.state, state
        self.generation += 1
        self.hands_on_at, self.waiting = -math.inf, []
        self.half_open_since = self.now
        self.held_until = math.inf
        self.probes_won = 0
        self.changes.append((previous, state, reason))
        if state == "open":
            self.reopened = self.reopened + 1 if previous == "half_open" else 0
            period = self.rules.reset_timeout * self.rules.reset_timeout_multiplier**self.reopened
            if self.rules.reset_timeout_multiplier > 1:
                period = min(period, self.rules.max_reset_timeout)
            self.open_until = self.now + max(period, min(pushback, self.rules.max_reset_timeout))
        else:
            self.open_until = math.inf if state == "forced_open" else -math.inf
        if state in {"closed", "disabled"}:
            self.forget()

    def forget(self) -> None:
        """Count from here on."""
        self.results = []
        self.born = self.now
        self.in_a_row = 0
        self.reopened = 0

    def command(self, state: str, reason: str, ttl: float | None = None) -> None:
        """An operator gives a command, for a time or for good."""
        until = math.inf if ttl is None else self.now + ttl
        if self.state != state:
            self.go(state, reason)
        elif state == "closed" or until != self.held_until:
            self.generation += 1
            if state != "forced_open":
                self.forget()
        self.held_until = until
