"""When a call is tried again: gRPC's rules, without a call."""

from __future__ import annotations

import math

import pytest

from grpc_breaker._core.method_policy import RetryPolicy, RetryThrottling
from grpc_breaker._core.retrying import DO_NOT_RETRY, RetryBudget, Retrying, backoff

POLICY = RetryPolicy(
    max_attempts=5, initial_backoff=0.1, max_backoff=0.5, backoff_multiplier=2, retryable_status_codes=("UNAVAILABLE",)
)
NEVER = math.inf


def half() -> float:
    """The middle of every jitter."""
    return 0.5


def retrying(budget: RetryBudget | None = None, policy: RetryPolicy = POLICY) -> Retrying:
    """A call whose first attempt is under way."""
    return Retrying(policy, budget, half)


def test_backoff_grows_to_its_limit() -> None:
    """The pause grows by its factor from one attempt to the next, up to the longest, and then stays there."""
    assert [round(backoff(POLICY, number, half), 9) for number in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_backoff_that_grows_beyond_all_numbers() -> None:
    """A factor that no float can hold a power of leads to the longest pause, and to no error."""
    policy = RetryPolicy(backoff_multiplier=1e308, max_backoff=2)
    assert backoff(policy, 4, half) == pytest.approx(2.0)


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 0.08), (0.25, 0.09), (0.999999, 0.12)])
def test_jitter(chance: float, seconds: float) -> None:
    """Every pause is up to a fifth shorter or longer, by chance."""
    assert backoff(POLICY, 1, lambda: chance) == pytest.approx(seconds, abs=1e-6)


def test_attempts_are_bounded() -> None:
    """A call is made `max_attempts` times, the first included, and no more."""
    call = retrying()
    pauses = [call.pause_after_failure("UNAVAILABLE", None, 0.0, NEVER) for _ in range(5)]
    assert [pause and round(pause, 9) for pause in pauses] == [0.1, 0.2, 0.4, 0.5, None]
    assert call.attempts == 5


def test_other_status_is_not_retried() -> None:
    """A status that the policy does not name ends the call."""
    call = retrying()
    assert call.pause_after_failure("INTERNAL", None, 0.0, NEVER) is None
    assert call.pause_after_failure("INTERNAL", 0.1, 0.0, NEVER) is None
    assert call.attempts == 1


def test_pushback_is_waited_for_and_begins_the_backoff_anew() -> None:
    """The server's own pause is taken as it is; the back-off after it is the first one again."""
    call = retrying()
    said = [None, None, 7.0, None]
    pauses = [call.pause_after_failure("UNAVAILABLE", pushback, 0.0, NEVER) for pushback in said]
    assert [pause and round(pause, 9) for pause in pauses] == [0.1, 0.2, 7.0, 0.1]


@pytest.mark.parametrize("pushback", [DO_NOT_RETRY, -9223372036854775.808, math.nan])
def test_pushback_that_says_no(pushback: float) -> None:
    """A pushback below zero, or one that is no number, ends the call."""
    assert retrying().pause_after_failure("UNAVAILABLE", pushback, 0.0, NEVER) is None


@pytest.mark.parametrize("pushback", [None, 0.1])
def test_pause_that_ends_too_late(pushback: float | None) -> None:
    """A pause that would last until the deadline or beyond it is not begun: the call fails at once."""
    assert retrying().pause_after_failure("UNAVAILABLE", pushback, 10.0, 10.1) is None
    assert retrying().pause_after_failure("UNAVAILABLE", pushback, 10.0, 10.11) == pytest.approx(0.1)


def test_pushback_of_nothing() -> None:
    """A pushback of 0 is one: the next attempt follows at once."""
    assert retrying().pause_after_failure("UNAVAILABLE", 0.0, 0.0, NEVER) == 0.0


def test_budget_stops_retries_at_half_its_tokens() -> None:
    """Failures take one token each; while no more than half of them are there, nothing is retried."""
    budget = RetryBudget(RetryThrottling(max_tokens=10, token_ratio=0.1))
    pauses = [retrying(budget).pause_after_failure("UNAVAILABLE", None, 0.0, NEVER) for _ in range(6)]
    assert [pause is not None for pause in pauses] == [True] * 4 + [False] * 2
    assert budget.tokens == 4.0


@pytest.mark.parametrize("ratio", [0.5, 0.625])
def test_successes_bring_the_tokens_back(ratio: float) -> None:
    """A success brings its share of a token back, up to the most there may be."""
    budget = RetryBudget(RetryThrottling(max_tokens=2, token_ratio=ratio))
    budget.failure()
    assert not budget.allows
    budget.success()
    assert budget.allows
    for _ in range(5):
        budget.success()
        assert budget.tokens <= 2.0
    assert budget.tokens == 2.0


def test_tokens_do_not_fall_below_nothing() -> None:
    """However many calls fail, so many successes as half the tokens need are enough."""
    budget = RetryBudget(RetryThrottling(max_tokens=2, token_ratio=1))
    for _ in range(50):
        budget.failure()
    budget.success()
    assert (budget.tokens, budget.allows) == (1.0, False)
    budget.success()
    assert budget.allows


def test_what_takes_a_token() -> None:
    """A failure takes a token if it could be retried, or if the server says not to; any other takes none."""
    budget = RetryBudget(RetryThrottling())
    call = retrying(budget)
    call.pause_after_failure("INTERNAL", None, 0.0, NEVER)
    assert budget.tokens == 10.0
    call.pause_after_failure("INTERNAL", DO_NOT_RETRY, 0.0, NEVER)
    assert budget.tokens == 9.0
    call.pause_after_failure("UNAVAILABLE", DO_NOT_RETRY, 0.0, NEVER)
    assert budget.tokens == 8.0
    call.pause_after_failure("UNAVAILABLE", None, 0.0, 0.0)
    assert budget.tokens == 7.0


def test_budget_changed_in_place() -> None:
    """A budget with other numbers is as full as it was, in proportion."""
    budget = RetryBudget(RetryThrottling(max_tokens=10))
    for _ in range(4):
        budget.failure()
    budget.reconfigure(RetryThrottling(max_tokens=100, token_ratio=1))
    assert budget.tokens == pytest.approx(60.0)
    budget.success()
    assert budget.tokens == pytest.approx(61.0)
