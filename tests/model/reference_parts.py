"""The reference breaker with the parts that have a say in whether a call is made, and for how long the breaker is open.

Written from `docs/parts.md` and the docstrings of the policies: bulkhead, rate limit, throttle, hung calls, ramp and
trial. (Pushback is the plain reference's.) What each part does is one short method; `ask` is the order of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from tests.model.reference import Call, Reference, Rules
from tests.model.reference_limits import Rate, Throttled


@dataclass
class Parts:
    """What is configured beside the breaker, and those of its rules that the plain reference does not have."""

    max_concurrent_calls: int | None = None
    bulkhead_streams: bool = False
    rate: tuple[float, int] | None = None
    """Calls per second, and burst."""
    throttle: tuple[float, float, int] | None = None
    """k, window and minimum_calls."""
    hung_after: float | None = None
    ramp: float | None = None
    enforcement_percentage: float = 100.0


@dataclass
class Refusal:
    """A "no" to a call; where it is not enforced the call is made."""

    reason: str
    state: str
    retry_after: float | None = 0.0
    """Seconds; `None` where only an operator knows."""
    enforced: bool = True


NO_GENERATION = -1
"""The generation of calls whose end says nothing: it is stale."""


@dataclass
class WholeReference(Reference):
    """The breaker with its parts. What is random is given: `chance` is from 0 to below 1."""

    parts: Parts = field(default_factory=Parts)
    rate: Rate | None = None
    throttled: Throttled | None = None
    hung: list[Call] = field(default_factory=list)
    """Calls that were counted as hung, or would have been if they said anything."""
    ramp_began: float = math.inf
    ramp_lasts: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)
    """All of them, in order."""

    def __post_init__(self) -> None:
        """Begin with empty limits."""
        self.configure(self.rules, self.parts)

    # ── A call comes ──────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, chance: float, *, timed: bool = True, timeout: float | None = None) -> Call | None:
        """A call comes; `None` if it is refused. A stream is not `timed`."""
        self.notice_hung()
        self.give_up()
        by_breaker = self.breaker_refuses(chance)
        if by_breaker is not None and self.enforces(chance):
            self.refuse(by_breaker)
            return None
        by_limit = self.limits_refuse(chance, timed=timed)
        if by_limit is not None:
            self.refuse(by_limit)
            return None
        if self.rate is not None:
            self.rate.take(self.now)
        if by_breaker is None:
            return self.let_in(timeout, timed=timed)
        by_breaker.enforced = False
        self.refusals.append(by_breaker)
        self.totals["unenforced"] += 1
        call = self.hand_out(timeout, probe=False, timed=timed)
        call.generation = NO_GENERATION
        return call

    def refuse(self, refusal: Refusal) -> None:
        """Say no."""
        self.refusals.append(refusal)
        self.totals["rejected"] += 1

    def would_admit(self, chance: float) -> bool:
        """Whether a call of one answer would be admitted now, as far as that does not depend on a throttle's chance."""
        if self.breaker_refuses(chance) is not None and self.enforces(chance):
            return False
        return not self.is_full(timed=True) and not (self.rate is not None and self.rate.wait(self.now) > 0)

    # ── The parts ─────────────────────────────────────────────────────────────────────────────────────────────────

    def breaker_refuses(self, chance: float) -> Refusal | None:
        """The breaker: its state, or in a ramp the number of calls in flight, and above that chance."""
        if not self.admits():
            return Refusal("breaker", self.state, self.breaker_opens_in())
        if self.is_ramping() and self.in_flight() >= self.rules.half_open_max_calls:
            share = (self.now - self.ramp_began) / self.ramp_lasts
            if chance >= share:
                return Refusal("breaker", self.state)
        return None

    def breaker_opens_in(self) -> float | None:
        """Seconds until the state may admit a call."""
        if self.state == "forced_open":
            return None if self.held_until == math.inf else self.held_until - self.now
        return max(0.0, self.open_until - self.now)

    def is_ramping(self) -> bool:
        """Whether a share of the calls is refused because the breaker was closed by probes not long ago."""
        return self.state == "closed" and self.ramp_began <= self.now < self.ramp_began + self.ramp_lasts

    def enforces(self, chance: float) -> bool:
        """A trial: whether a refusal of the breaker holds. What an operator ordered always does."""
        return self.state == "forced_open" or chance < self.parts.enforcement_percentage / 100

    def limits_refuse(self, chance: float, *, timed: bool) -> Refusal | None:
        """The limits, in their order."""
        if self.throttled is not None and self.state == "closed":
            ended, failed, _ = self.window()
            if self.throttled.refuses(self.now, ended, failed, chance):
                return Refusal("throttle", self.state)
        if self.is_full(timed=timed):
            return Refusal("bulkhead", self.state)
        if self.rate is not None and (wait := self.rate.wait(self.now)) > 0:
            return Refusal("rate", self.state, wait)
        return None

    def is_full(self, *, timed: bool) -> bool:
        """The bulkhead: whether as many calls are in flight as it allows. Streams are beside it, or in it like others."""
        most, streams = self.parts.max_concurrent_calls, self.parts.bulkhead_streams
        if most is None or not (timed or streams):
            return False
        return sum(call.timed or streams for call in self.under_way()) >= most

    def under_way(self) -> list[Call]:
        """The calls that are in flight."""
        return [call for call in self.calls if not call.settled and not self.expired(call)]

    def hanging(self) -> list[Call]:
        """The calls in flight for longer than `hung_after`. A stream may take any time."""
        limit = self.parts.hung_after
        if limit is None:
            return []
        return [call for call in self.under_way() if call.timed and self.now - call.started > limit]

    def notice_hung(self) -> None:
        """Each call that hangs is one failure, once; its end is stale."""
        for call in self.hanging():
            if call not in self.hung:
                counts = call.generation == self.generation
                call.generation = NO_GENERATION
                self.hung.append(call)
                if counts:
                    self.totals["failure"] += 1
                    self.count(call, failed=True, wins=False)

    # ── What changes ──────────────────────────────────────────────────────────────────────────────────────────────

    def go(self, state: str, reason: str, pushback: float = 0.0) -> None:
        """Change the state. A ramp begins where probes have closed the breaker, and ends with the state."""
        super().go(state, reason, pushback)
        self.ramp_began = math.inf
        if reason == "probes_succeeded" and self.parts.ramp is not None:
            self.ramp_began, self.ramp_lasts = self.now, self.parts.ramp

    def forget(self) -> None:
        """Count from here on."""
        super().forget()
        self.ramp_began = math.inf
        if self.throttled is not None:
            self.throttled.forget()

    def configure(self, rules: Rules, parts: Parts) -> None:
        """Put other rules in force: the state, calls in flight, and what limits have counted stay."""
        before, self.rules, self.parts = self.rules, with_throttle(rules, parts), parts
        rate, throttled = self.rate, self.throttled
        self.rate = None if parts.rate is None else Rate(*parts.rate, looked_at=self.now)
        self.throttled = None if parts.throttle is None else Throttled(*parts.throttle)
        if self.rate is not None and rate is not None:
            self.rate.go_on_from(rate, self.now)
        if self.throttled is not None and throttled is not None:
            self.throttled.go_on_from(throttled)
        if window_shape(before) != window_shape(self.rules):
            self.results, self.born = [], self.now
            if self.throttled is not None:
                self.throttled.forget()


def with_throttle(rules: Rules, parts: Parts) -> Rules:
    """A throttle stands in the place of all trip conditions, and says how long a result counts."""
    if parts.throttle is None:
        return rules
    return replace(
        rules,
        failure_threshold=None,
        failure_rate=None,
        consecutive_failures=None,
        slow_call_duration=None,
        window_calls=None,
        window_seconds=parts.throttle[1],
    )


def window_shape(rules: Rules) -> tuple[str, float]:
    """What a window is kept by when other rules come into force."""
    return ("seconds", rules.window_seconds) if rules.window_calls is None else ("calls", rules.window_calls)
