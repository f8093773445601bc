"""Which generation follows which: how each is made, and how long a breaker stays open."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from grpc_breaker._core.callables import name_of
from grpc_breaker._core.generation import Closed, Disabled, ForcedOpen, Generation, HalfOpen, Open, Ramping
from grpc_breaker._core.holds import UNLIMITED, Hold
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.refusing import Refusing
from grpc_breaker._core.state import Reason, State
from grpc_breaker._core.window import CountWindow, TimeWindow, Window

_LONG_AGO: Final = -math.inf
_NOTHING_TO_CLAIM: Final[dict[int, Any]] = {}
"""The claims of the first generation, which has no event: shared, because most breakers never have another."""


def first(name: str, policy: BreakerPolicy, now: float) -> Generation:
    """The generation a breaker begins with."""
    generation = Closed(0, window_for(policy, now), _never_refusing(name, State.CLOSED))
    generation.claims = _NOTHING_TO_CLAIM
    return generation


def after(
    old: Generation,
    state: State,
    reason: Reason,
    now: float,
    policy: BreakerPolicy,
    random: Callable[[], float],
    probe: Any,
    pushback: float | None = None,
    hold: Hold = UNLIMITED,
) -> Generation:
    """The generation that follows `old` in `state`, not yet in force.

    Args:
        old: The generation to end.
        state: The state to enter.
        reason: Why.
        now: When, by the breaker's clock.
        policy: The policy in force.
        random: The user's source of chance, for the jitter of the open period.
        probe: The permit of the call that makes the breaker half-open.
        pushback: For how many seconds the server asked to be left alone.
        hold: The order of an operator that forces it open or disables it.
    """
    number, name = old.number + 1, old.refusing.breaker
    match state:
        case State.CLOSED:
            window = window_for(policy, now)
            if policy.ramp is not None and reason is Reason.PROBES_SUCCEEDED:
                ramping = Refusing(name, state, old.refusing.condition, _LONG_AGO, policy.refusal_code)
                return Ramping(number, window, ramping, now, policy.ramp)
            return Closed(number, window, _never_refusing(name, state))
        case State.DISABLED:
            return Disabled(number, window_for(policy, now), _never_refusing(name, state), hold)
        case State.FORCED_OPEN:
            refusing = Refusing(name, state, reason, hold.until, policy.refusal_code)
            return ForcedOpen(number, old.window, refusing, hold)
        case State.OPEN:
            reopenings = old.reopenings + 1
            asked_for = min(pushback or 0.0, policy.max_reset_timeout)
            until = now + max(_open_period(policy, reopenings, random), asked_for)
            return Open(number, old.window, Refusing(name, state, reason, until, policy.refusal_code), reopenings)
        case State.HALF_OPEN:  # pragma: no branch - there is no other
            refusing = Refusing(name, state, old.refusing.condition, _LONG_AGO, policy.refusal_code)
            return HalfOpen(number, old.window, refusing, old.reopenings, probe, now)


def _never_refusing(name: str, state: State) -> Refusing:
    return Refusing(name, state, Reason.RESET, _LONG_AGO, "")


def window_for(policy: BreakerPolicy, now: float) -> Window:
    if policy.window_calls is not None:
        return CountWindow(policy.window_calls)
    return TimeWindow(policy.window_seconds, now)


def _open_period(policy: BreakerPolicy, reopenings: int, random: Callable[[], float]) -> float:
    """How long the breaker stays open this time, in seconds."""
    period = policy.reset_timeout
    if reopenings > 1 and policy.growth > 1.0:
        # As logarithms, because a multiplier to the power of many failed probes is more than a float can hold.
        growth = (reopenings - 1) * math.log(policy.growth)
        room = math.log(policy.max_reset_timeout / period)
        period = policy.max_reset_timeout if growth >= room else period * math.exp(growth)
    return period * (1.0 + policy.reset_timeout_jitter * chance(random))


def chance(random: Callable[[], float]) -> float:
    """A number in [0, 1), whatever the user's source of chance does: the breaker must open all the same."""
    try:
        chance = float(random())
    except Exception as error:  # a user's function
        if passes_through(error):
            raise
        chance = math.nan
    if 0.0 <= chance < 1.0:
        return chance
    log_once(f"random must return a number in [0, 1), and {name_of(random)} did not; 0 is taken", exc_info=False)
    return 0.0
