"""What the adapters keep of a method at one target beside its breaker: policy, last good answers and retry tokens.

A method whose policy wants nothing of the adapters has no stack. One object may be used from any number of threads and
event loops at once; nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import random as uniform
from typing import Final, NamedTuple

from grpc_breaker._core.counts import FALLBACK, RETRY, CallCounts
from grpc_breaker._core.events import Listeners, deliver
from grpc_breaker._core.last_good import LastGoodAnswers
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.retrying import RetryBudget

LAST_GOOD: Final = "last-good"
FUNCTION: Final = "function"
CONSTANT: Final = "constant"
"""Where the answer of a fallback comes from, in the order in which they are tried."""


class Acted(NamedTuple):
    """A part around the breaker has done something for a call."""

    method: str
    """The method, as events spell it."""
    what: str
    """"retry" or "fallback"."""
    kind: str
    """Which fallback answered; of a retry, empty."""


class Stack:
    """The parts of a method's calls that are around its breaker."""

    __slots__ = ("_clock", "_listeners", "answers", "budget", "counts", "method", "policy", "random")

    def __init__(
        self,
        method: str,
        policy: MethodPolicy,
        budget: RetryBudget | None = None,
        counts: CallCounts | None = None,
        listeners: Listeners[Acted] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        """Make one.

        Args:
            method: The method's name, as events spell it.
            policy: What is wanted of its calls.
            budget: The tokens of retry throttling. Default `None`: retries are not throttled.
            counts: Where retries and answers of fallbacks are counted. Default `None`: in counts of its own.
            listeners: Who is told of them. Default `None`: nobody.
            clock: Returns seconds that never run backwards, for the age of answers.
            random: A number in [0, 1), for the pauses between attempts.
        """
        self.method = method
        self.policy = policy
        """What is wanted; read it once for each call."""
        self.budget = budget
        self.random = random
        self.answers: LastGoodAnswers | None = None
        """The last good answers; `None` where the policy wants none. Read it once for each call."""
        self.counts = counts or CallCounts()
        """Where retries and answers of fallbacks are counted: with the calls of the breaker."""
        self._listeners = Listeners[Acted]() if listeners is None else listeners
        self._clock = clock
        self._note_policy()

    def count_retry(self) -> None:
        """Count an attempt after the first one."""
        self._count(RETRY, "")

    def count_fallback(self, kind: str) -> None:
        """Count a call that a fallback answered."""
        self._count(FALLBACK, kind)

    def _count(self, what: str, kind: str) -> None:
        self.counts.add(what, kind)
        if self._listeners:
            deliver((self._listeners,), Acted(self.method, what, kind))

    def reconfigure(self, policy: MethodPolicy, budget: RetryBudget | None = None) -> None:
        """Put another policy and another budget in force, in place; calls under way keep those they began with.

        The answers are kept, unless the policy wants none any more, or their keys mean something else.
        """
        self.policy = policy
        self.budget = budget
        self._note_policy()

    def _note_policy(self) -> None:
        fallback = self.policy.fallback
        limits = None if fallback is None else fallback.last_good
        answers = self.answers
        if limits is None:
            self.answers = None
        elif answers is None or answers.key_metadata != limits.key_metadata:
            self.answers = LastGoodAnswers(limits, self._clock)
        else:
            answers.reconfigure(limits)
