"""Every small history of a breaker with parts: as `explore.py`, with one scope for each part, and one for all together.

The steps are: a call comes, or a stream where that matters, with each number that chance may give; somebody asks whether
a call would be admitted; any outstanding call ends, with each outcome and each pushback; the clock moves to the next
moment at which anything ends, or stops just before it; an operator resets the breaker.

    python -m tests.model.explore_parts --depth 7
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grpc_breaker import Outcome
from tests.model.both import Both
from tests.model.explore import Step, main, reach
from tests.model.reference import Call, Rules
from tests.model.reference_parts import Parts

JUST = 0.25
"""Seconds by which a moment is missed."""

MAX_OUTSTANDING = 3


@dataclass(frozen=True)
class Scope:
    """What is configured, and what the steps are made from."""

    parts: Parts
    rules: Rules
    chances: tuple[float, ...] = (0.0,)
    streams: bool = False
    pushbacks: tuple[float | None, ...] = (None,)
    timeout: float | None = None
    begins: tuple[Step, ...] = ()
    """What happens first in every history, because it takes many steps."""


FAILURE: tuple[Step, ...] = (("ask", 0.0, True, None), ("settle", 0, Outcome.FAILURE, None))
"""A call that fails."""

RECOVERY: tuple[Step, ...] = (*FAILURE, ("wait", 4.0), ("ask", 0.0, True, None), ("settle", 0, Outcome.SUCCESS, None))
"""An outage that is over."""


def quick(**rules: Any) -> Rules:
    """Rules by which little is needed to open and to close."""
    return Rules(**{"consecutive_failures": 1, "reset_timeout": 4.0, "probe_timeout": 3.0, **rules})


SCOPES = {
    "bulkhead": Scope(Parts(max_concurrent_calls=1), quick(), streams=True, timeout=1.0),
    "bulkhead, streams too": Scope(
        Parts(max_concurrent_calls=2, bulkhead_streams=True), quick(half_open_max_calls=2), streams=True
    ),
    "rate": Scope(Parts(rate=(0.5, 2)), quick()),
    "rate and bulkhead": Scope(Parts(rate=(0.25, 1), max_concurrent_calls=1), quick()),
    "throttle": Scope(Parts(throttle=(1.0, 10.0, 2)), quick(), chances=(0.4375, 0.96875), begins=(*FAILURE, *FAILURE)),
    "hung": Scope(Parts(hung_after=2.0), quick(consecutive_failures=2), streams=True, timeout=1.0),
    "hung, one probe": Scope(Parts(hung_after=2.0), quick(half_open_max_calls=2)),
    "ramp": Scope(
        Parts(ramp=4.0),
        quick(half_open_max_calls=2, half_open_successes=1),
        chances=(0.4375, 0.5, 0.96875),
        begins=RECOVERY,
    ),
    "trial": Scope(Parts(enforcement_percentage=0.0), quick(), streams=True, begins=FAILURE),
    "half a trial": Scope(
        Parts(enforcement_percentage=50.0), quick(half_open_max_calls=2), chances=(0.4375, 0.5), begins=FAILURE
    ),
    "pushback": Scope(
        Parts(),
        quick(reset_timeout_multiplier=2.0, max_reset_timeout=12.0, slow_call_duration=1.0, slow_call_rate=1.0),
        pushbacks=(None, 6.0, 1000.0),
    ),
    "all": Scope(
        Parts(max_concurrent_calls=2, rate=(1.0, 2), hung_after=2.0, ramp=4.0, enforcement_percentage=50.0),
        quick(half_open_max_calls=2),
        chances=(0.4375, 0.96875),
        pushbacks=(6.0,),
        begins=FAILURE,
    ),
}


class World:
    """Both sides after one history."""

    def __init__(self, scope: Scope, history: tuple[Step, ...] = ()) -> None:
        self.scope = scope
        self.history = history
        self.both = Both(scope.rules, scope.parts)
        for step in history:
            self.do(step)

    def do(self, step: Step) -> None:
        """One step, on both sides; they must agree on what it did."""
        both = self.both
        match step:
            case ("ask", float(chance), bool(timed), timeout):
                both.ask(chance, timed=timed, timeout=timeout)
            case ("ask whether", float(chance)):
                both.ask_whether(chance)
            case ("settle", int(n), Outcome() as outcome, pushback):
                both.settle(both.pairs.pop(n), outcome, pushback)
            case ("answer", int(n)):
                both.answer(both.pairs[n])
            case ("wait", float(seconds)):
                both.wait(seconds)
            case ("reset",):
                both.operate("reset")
        both.compare()

    def steps(self) -> Iterator[Step]:
        """What can happen next."""
        scope, model = self.scope, self.both.model
        room = len(self.both.pairs) < MAX_OUTSTANDING
        for chance in scope.chances:
            yield ("ask whether", chance)
        for chance in scope.chances if room else ():
            yield ("ask", chance, True, scope.timeout)
            if scope.streams:
                yield ("ask", chance, False, None)
        for n, (_, call) in enumerate(self.both.pairs):
            for outcome in Outcome:
                for pushback in scope.pushbacks if outcome is Outcome.FAILURE else (None,):
                    yield ("settle", n, outcome, pushback)
            if not call.timed and not call.answered:
                yield ("answer", n)
        for moment in sorted(self.moments()):
            yield ("wait", moment - model.now)
            if moment - model.now > JUST:
                yield ("wait", moment - model.now - JUST)
        yield ("reset",)

    def moments(self) -> set[float]:
        """Moments after now at which something ends, or begins."""
        model, parts = self.both.model, self.scope.parts
        moments = {*model.waiting, model.open_until}
        for _, call in self.both.pairs:
            moments |= {call.lease_end, call.slot_end if call.probe else math.inf}
            if parts.hung_after is not None and call not in model.hung:
                moments.add(call.started + parts.hung_after + JUST)
            if self.scope.rules.slow_call_duration is not None:
                moments.add(call.started + self.scope.rules.slow_call_duration + JUST)
        if model.is_ramping():
            moments |= {model.ramp_began + model.ramp_lasts / 2, model.ramp_began + model.ramp_lasts}
        if model.rate is not None:
            moments.add(model.now + model.rate.wait(model.now))
        if model.throttled is not None:
            moments.add(model.throttled.let_pass_at + 1.0)
            moments |= {at + model.throttled.window for at in model.throttled.counted(model.now)[-1:]}
        return {moment for moment in moments if model.now < moment < math.inf}

    def key(self) -> Any:
        """All that matters for the future, with times counted from now."""
        model = self.both.model
        now, throttled = model.now, model.throttled
        return (
            model.state,
            max(model.open_until - now, 0.0),
            model.in_a_row,
            model.in_a_row > 0 and now - model.lengthened_at > model.rules.window_seconds,
            model.probes_won,
            model.reopened,
            model.hands_on_at > now,
            model.until_hand_on() if model.state == "half_open" else 0.0,
            now - model.half_open_since if model.state == "half_open" else 0.0,
            tuple(sorted(max(at - now, 0.0) for at in model.waiting)),
            tuple((now - at, bad, slow) for at, bad, slow in model.results),
            now - model.born if model.results or throttled else 0.0,
            now - model.ramp_began if model.is_ramping() else None,
            None if model.rate is None else model.rate.at(now),
            None if throttled is None else (tuple(now - at for at in throttled.refused), now - throttled.let_pass_at),
            tuple(self.key_of(call) for call in model.under_way()),
            tuple(model.under_way().index(call) if call in model.under_way() else -1 for _, call in self.both.pairs),
        )

    def key_of(self, call: Call) -> Any:
        """The same of one call in flight."""
        model = self.both.model
        return (
            call.generation - model.generation if call.generation == model.generation else None,
            call.probe,
            call.timed,
            call.answered,
            call in model.hung,
            call.given_up,
            call.slot_end - model.now if call.probe else 0.0,
            call.lease_end - model.now,
            model.now - call.started,
        )

    def after(self, step: Step) -> World:
        """The world one step later, made by living through it all again."""
        return World(self.scope, (*self.history, step))


def explore(scope: str, depth: int) -> tuple[int, int]:
    """Reach every state that `depth` steps can lead to; returns how many states and transitions there were."""
    return reach(World(SCOPES[scope], SCOPES[scope].begins), depth)


if __name__ == "__main__":
    main(__doc__, SCOPES, explore, depth=6)
