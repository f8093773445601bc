"""What is kept of one method beside its breaker, through changes of its policy."""

from __future__ import annotations

from grpc_breaker._core.fallback import Fallback, LastGood
from grpc_breaker._core.method_policy import MethodPolicy, RetryThrottling
from grpc_breaker._core.retrying import RetryBudget
from grpc_breaker._core.stack import Stack
from grpc_breaker.testing import FakeClock


def last_good(**limits: object) -> MethodPolicy:
    """A policy that wants last good answers."""
    return MethodPolicy(fallback=Fallback(last_good=LastGood(**limits)))  # type: ignore[arg-type]


def test_what_it_begins_with() -> None:
    """A stack has what its policy wants."""
    policy, budget = MethodPolicy(timeout=1), RetryBudget(RetryThrottling())
    stack = Stack("pkg.S/M", policy, budget)
    assert (stack.method, stack.policy, stack.budget, stack.answers) == ("pkg.S/M", policy, budget, None)
    assert 0 <= stack.random() < 1


def test_answers_stay_when_the_policy_changes() -> None:
    """Another policy keeps the answers, with its own limits; another budget takes the place of the one before."""
    clock, budget = FakeClock(), RetryBudget(RetryThrottling())
    stack = Stack("pkg.S/M", last_good(), clock=clock)
    assert stack.answers is not None
    stack.answers.keep(b"a", "answer", 6)
    stack.reconfigure(last_good(max_age=5), budget)
    assert (stack.answers.find(b"a"), stack.budget) == ("answer", budget)
    clock.advance(6)
    assert stack.answers.find(b"a") is None


def test_answers_go_when_none_are_wanted() -> None:
    """A policy without last good answers lets go of them; wanted again, they begin empty."""
    stack = Stack("pkg.S/M", last_good())
    assert stack.answers is not None
    stack.answers.keep(b"a", "answer", 6)
    stack.reconfigure(MethodPolicy(fallback=Fallback(constant=b"")))
    assert stack.answers is None
    stack.reconfigure(last_good())
    assert stack.answers is not None
    assert stack.answers.find(b"a") is None


def test_answers_go_when_their_keys_mean_something_else() -> None:
    """Where other metadata belongs to the keys, nothing is found under them: an answer must not reach another user."""
    stack = Stack("pkg.S/M", last_good(key_metadata=("tenant",)))
    assert stack.answers is not None
    stack.answers.keep(b"a", "answer", 6)
    stack.reconfigure(last_good(key_metadata=("user",)))
    assert stack.answers is not None
    assert (stack.answers.find(b"a"), stack.answers.key_metadata) == (None, ("user",))
