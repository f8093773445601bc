"""When a call that failed is tried again, by gRPC's rules (gRFC A6).

1.  A call is tried again when its status is one of `retryable_status_codes`, until there were `max_attempts`.
2.  The pause before the attempt grows from `initial_backoff` by `backoff_multiplier` up to `max_backoff`, each time
    ±20 %, so that clients that failed together do not come back together.
3.  The server may say how long to wait ("pushback"), or not to come back. After a pushback the back-off begins anew.
4.  A pause that would last until the deadline, or beyond it, is not begun: the call fails at once (grpc #39622).
5.  The budget: a failure takes one token, a success brings some back, and while no more than half of them are there,
    nothing is retried. So retries stop when most calls fail, whatever their number.

Nothing here waits, and nothing asks what time it is: both are the adapters' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from grpc_breaker._core.method_policy import RetryPolicy, RetryThrottling

DO_NOT_RETRY: Final = -1.0
"""A pushback by which the server says that the call is not to be tried again; any below 0 does."""

_JITTER: Final = 0.2


class RetryBudget:
    """The tokens of retry throttling, shared by all calls of a registry.

    Safe to use from any thread: an addition contains no call, so that no other thread runs inside it.
    """

    __slots__ = ("_most", "_ratio", "tokens")

    def __init__(self, throttling: RetryThrottling) -> None:
        """Make a full one."""
        self._most: float = throttling.max_tokens
        self.tokens: float = self._most
        """How many tokens there may be, and how many there are."""
        self._ratio = throttling.token_ratio

    @property
    def allows(self) -> bool:
        """Whether a call may be tried again now."""
        return self.tokens > self._most / 2

    def success(self) -> None:
        """Take in a call that succeeded."""
        self.tokens = self.tokens + self._ratio if self.tokens < self._most - self._ratio else self._most

    def failure(self) -> None:
        """Take in an attempt that failed."""
        self.tokens = self.tokens - 1.0 if self.tokens > 1.0 else 0.0

    def reconfigure(self, throttling: RetryThrottling) -> None:
        """Put other numbers in force, in place: it stays as full as it is, in proportion."""
        share = self.tokens / self._most
        self._most, self._ratio = throttling.max_tokens, throttling.token_ratio
        self.tokens = share * self._most


class Retrying:
    """The attempts of one call. Belongs to the thread or task that makes the call."""

    __slots__ = ("_backoffs", "_budget", "_policy", "_random", "attempts")

    def __init__(self, policy: RetryPolicy, budget: RetryBudget | None, random: Callable[[], float]) -> None:
        """Begin with the first attempt.

        Args:
            policy: When to retry, and how long to wait.
            budget: The tokens of all calls; `None` without retry throttling.
            random: A number in [0, 1).
        """
        self._policy = policy
        self._budget = budget
        self._random = random
        self._backoffs = 0
        """Back-offs since the last pushback."""
        self.attempts = 1
        """Attempts made, the one that is under way included."""

    def pause_after_failure(self, status: str, pushback: float | None, now: float, deadline: float) -> float | None:
        """Take in a failed attempt, and say when the next one is to be made.

        Args:
            status: The name of its status.
            pushback: How long the server says to wait, in seconds; below 0, that the call is not to be tried again.
                `None`: it says nothing.
            now: Seconds, by the clock of `deadline`.
            deadline: When the call as a whole ends; infinite without one.

        Returns:
            Seconds to wait before the next attempt, which then counts as made; `None`: there is none.
        """
        retryable = status in self._policy.retryable_status_codes
        denied = pushback is not None and not pushback >= 0.0  # nor NaN
        budget = self._budget
        if budget is not None and (retryable or denied):
            budget.failure()
        if not retryable or denied or self.attempts >= self._policy.max_attempts:
            return None
        if budget is not None and not budget.allows:
            return None
        if pushback is None:
            self._backoffs += 1
            pause = backoff(self._policy, self._backoffs, self._random)
        else:
            self._backoffs = 0
            pause = pushback
        if now + pause >= deadline:
            return None
        self.attempts += 1
        return pause


def backoff(policy: RetryPolicy, number: int, random: Callable[[], float]) -> float:
    """The seconds of the first back-off, the second, …: it may be up to a fifth shorter or longer than the policy says.

    Args:
        policy: How it grows.
        number: Which one, from 1.
        random: A number in [0, 1).
    """
    pause = policy.initial_backoff
    for _ in range(number - 1):
        pause *= policy.backoff_multiplier
    return min(pause, policy.max_backoff) * (1.0 - _JITTER + 2.0 * _JITTER * random())
