"""What is done to a breaker from outside of calls: states that an operator orders, and policies put in force.

Each is one atomic step, or may be seen half done by a call without harm: such a call is judged by the policy before.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from grpc_breaker._core.generation import Generation
from grpc_breaker._core.holds import UNLIMITED, Hold
from grpc_breaker._core.limits import Limits
from grpc_breaker._core.machine import Machine
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.names import breaker_part
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.refusing import Refusing
from grpc_breaker._core.state import Reason, State
from grpc_breaker._core.succession import after, window_for

_REASONS: Final = {State.FORCED_OPEN: Reason.FORCED_OPEN, State.DISABLED: Reason.DISABLED}


def operate(breaker: Machine, state: State, hold: Hold = UNLIMITED) -> None:
    """Do what an operator ordered, or a test. Of two orders the later one holds."""
    now, reason = breaker._clock(), _REASONS[state]
    while (old := breaker._after_hold()).hold != hold or old.state is not state:
        if old.state is state:
            new = after(old, state, reason, now, breaker._policy, breaker._random, None, None, hold)
            done = _replace(breaker, old, new)
        else:
            done = breaker._change(old, state, reason, now, details=hold.reason, hold=hold)
        if done:  # pragma: no branch - else another caller was faster: tests/model
            return


@contextmanager
def without_limits(breaker: Machine) -> Generator[None, None, None]:
    """Have the limits of a breaker neither refuse nor count calls meanwhile, for a test."""
    limits, breaker._limits = breaker._limits, None
    try:
        yield
    finally:
        breaker._limits = limits


def close(breaker: Machine) -> None:
    """Close it and forget what was counted, whatever the state; no event where it is closed already."""
    now = breaker._clock()
    while True:
        old = breaker._latest()
        if old.state is not State.CLOSED:
            if breaker._change(old, State.CLOSED, Reason.RESET, now):
                return
            continue
        new = after(old, State.CLOSED, Reason.RESET, now, breaker._policy, breaker._random, None)
        if _replace(breaker, old, new):  # pragma: no branch - else another caller was faster: tests/model
            return


def _replace(breaker: Machine, old: Generation, new: Generation) -> bool:
    """Put a generation in force after one of the same state: no change that anyone is told of."""
    new.sequence, new.history = old.sequence, old.history
    return breaker._succeed(old, new)


def put_in_force(breaker: Machine, policy: BreakerPolicy, now: float) -> None:
    """Put a policy in force; what stays is said at `CircuitBreaker.reconfigure`."""
    old = breaker._policy
    breaker._policy = policy
    breaker._note_policy()
    generation = breaker._latest()
    refusing = generation.refusing
    generation.refusing = Refusing(
        refusing.breaker, refusing.state, refusing.condition, refusing.until, policy.refusal_code
    )
    if policy.window_calls != old.window_calls or (
        policy.window_calls is None and policy.window_seconds != old.window_seconds
    ):
        generation.window = window_for(policy, now).after(generation.window)


def put_method_policy_in_force(breaker: Machine, policy: MethodPolicy, now: float) -> None:
    """Put the policy of a method, or of a group, in force: its limits, too; what they have counted stays.

    Where it is the same as before to the breaker, nothing changes, nor what an operator has changed since.

    Where several callers do it at once, each one that finds out at its end that another policy is wanted by then puts
    that in force as a whole. Meanwhile none is said to be in force, so what is interrupted will be done again.
    """
    if all(it is not None and breaker_part(it) == breaker_part(policy) for it in (breaker._in_force, breaker._wanted)):
        return
    breaker._wanted, breaker._reconfigured = policy, False
    while True:
        breaker._in_force = None
        put_in_force(breaker, policy.breaker_policy, now)
        breaker._limits = Limits.after(breaker._limits, policy, now)
        breaker._note_policy()
        breaker._tidy_at = -math.inf  # the next call looks which calls in flight are streams
        breaker._in_force = policy
        if breaker._wanted is policy:  # pragma: no branch - else another caller was faster: tests/model
            return
        policy = breaker._wanted or policy  # pragma: no cover
