"""A method of a registry and the reference with parts, side by side: each step is done to both, and must do the same.

The registry is used through its public face alone. Its chance is what the step says, for as many numbers as it draws.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from grpc_breaker import BreakerPolicy, MethodPolicy, Outcome, Permit, RateLimit, Rejection, Throttle
from grpc_breaker.testing import EventRecorder
from tests.model.reference import Call, Rules
from tests.model.reference_parts import Parts, Refusal, WholeReference
from tests.support.decisions import METHOD, Guarded
from tests.support.transitions import check_events

ORDERS = {
    "force_open": ("forced_open", "forced_open"),
    "disable": ("disabled", "disabled"),
    "reset": ("closed", "reset"),
}
"""What each order of an operator leads to, and the reason that the event gives."""


def policy_of(rules: Rules, parts: Parts) -> MethodPolicy:
    """The same rules and parts as the package takes them."""
    breaker = BreakerPolicy(
        reset_timeout_jitter=0.0,
        hung_after=parts.hung_after,
        ramp=parts.ramp,
        enforcement_percentage=parts.enforcement_percentage,
        **asdict(rules),
    )
    rate, throttle = parts.rate, parts.throttle
    return MethodPolicy(
        breaker=breaker,
        max_concurrent_calls=parts.max_concurrent_calls,
        bulkhead_streams=parts.bulkhead_streams,
        rate_limit=None if rate is None else RateLimit(rate[0], burst=rate[1]),
        throttle=None if throttle is None else Throttle(k=throttle[0], window=throttle[1], minimum_calls=throttle[2]),
    )


class Both:
    """The real one and the reference."""

    def __init__(self, rules: Rules, parts: Parts) -> None:
        self.guarded = Guarded(policy_of(rules, parts))
        self.real = self.guarded.breaker
        self.events = EventRecorder(self.real)
        self.model = WholeReference(rules, parts=parts)
        self.pairs: list[tuple[Permit, Call]] = []
        """The calls that were admitted and that somebody may yet end."""

    def ask(self, chance: float, *, timed: bool = True, timeout: float | None = None) -> bool:
        """A call comes; returns whether it was admitted. Both say the same to it, and to the listeners."""
        self.guarded.chance.next = chance
        told = len(self.model.refusals)
        answer = self.real.try_admit(METHOD, timed=timed, timeout=timeout)
        call = self.model.ask(chance, timed=timed, timeout=timeout)
        refusals = self.model.refusals[told:]
        assert [said(it) for it in self.events.rejections] == [known(it) for it in refusals]
        self.events.rejections.clear()
        if isinstance(answer, Rejection):
            assert call is None
            assert said(answer) == known(refusals[-1])
            return False
        assert call is not None
        assert answer.is_probe == (call.probe and call.generation == self.model.generation)
        self.pairs.append((answer, call))
        return True

    def ask_whether(self, chance: float) -> None:
        """Somebody asks whether a call would be admitted, and makes none."""
        self.guarded.chance.next = chance
        assert self.guarded.breakers.wait_until_admitted(METHOD, 0) == self.model.would_admit(chance)

    def settle(self, pair: tuple[Permit, Call], outcome: Outcome, pushback: float | None = None) -> None:
        """A call ends; only its first end is one."""
        permit, call = pair
        first = not call.settled
        self.model.settle(call, str(outcome), pushback or 0.0)
        assert permit.settle(outcome, pushback=pushback) == first

    def answer(self, pair: tuple[Permit, Call]) -> None:
        """The first answer of a stream comes."""
        permit, call = pair
        self.model.answer(call)
        permit.answered()

    def wait(self, seconds: float) -> None:
        """Time passes, and then the state is looked at, which ends a hold whose time is over."""
        self.guarded.clock.advance(seconds)
        self.model.wait(seconds)
        assert self.real.state == self.model.state

    def operate(self, order: str, ttl: float | None = None) -> None:
        """An operator gives an order."""
        getattr(self.real, order)(**({} if order == "reset" else {"ttl": ttl}))
        self.model.command(*ORDERS[order], ttl)

    def configure(self, rules: Rules, parts: Parts) -> None:
        """Other rules and parts come into force."""
        self.guarded.breakers.reconfigure({"pkg.S": policy_of(rules, parts)}, default=None)
        self.model.configure(rules, parts)

    def compare(self) -> None:
        """Everything that can be seen is the same."""
        snapshot, model = self.real.snapshot(), self.model
        json.dumps(snapshot)
        assert (snapshot["state"], snapshot["generation"]) == (model.state, model.generation)
        assert snapshot["totals"] == model.totals
        enforced = [refusal.reason for refusal in model.refusals if refusal.enforced]
        assert snapshot["refusals"] == {reason: enforced.count(reason) for reason in sorted(set(enforced))}
        assert (snapshot["in_flight"], snapshot["hung"]) == (model.in_flight(), len(model.hanging()))
        assert snapshot["window"]["consecutive_failures"] == model.in_a_row
        if model.state != "half_open":
            assert tuple(snapshot["window"].values())[:3] == model.window()
        assert agrees(snapshot["retry_after"], model.breaker_opens_in())
        limits = snapshot["limits"]
        assert (limits or {}).get("max_concurrent_calls") == model.parts.max_concurrent_calls
        if model.throttled is not None:
            ended, failed, _ = model.window()
            assert agrees(limits["throttled_share"], model.throttled.share(model.now, ended, failed))
        self.compare_events()

    def compare_events(self) -> None:
        """The changes of state are the same, each a legal one."""
        check_events(self.events.changes)
        assert [(it.previous, it.state, it.reason) for it in self.events.changes] == self.model.changes


def said(rejection: Rejection) -> tuple[Any, ...]:
    """What a rejection says, as far as the reference knows it."""
    wait = rejection.retry_after
    return str(rejection.reason), str(rejection.state), None if wait is None else round(wait, 6), rejection.enforced


def known(refusal: Refusal) -> tuple[Any, ...]:
    """The same of the reference's."""
    wait = refusal.retry_after
    return refusal.reason, refusal.state, None if wait is None else round(wait, 6), refusal.enforced


def agrees(real: float | None, model: float | None) -> bool:
    """Whether two numbers are the same, but for the rounding of sums."""
    return real is model if real is None or model is None else math.isclose(real, model, abs_tol=1e-9)
