"""The stacks of a registry: one for each method and target whose policy wants anything of the adapters.

Threads. To enter a stack is one step of a dictionary. A stack that was made while another configuration came into force
is found by the next call, which puts the policy in force that the registry has then.
"""

from __future__ import annotations

from collections.abc import Callable

from grpc_breaker._core.configuration import Configuration
from grpc_breaker._core.counts import LabelledCounts
from grpc_breaker._core.events import Listeners
from grpc_breaker._core.retrying import RetryBudget
from grpc_breaker._core.stack import Acted, Stack
from grpc_breaker._core.target import at_target, split_target


class Stacks:
    """What is wanted around the breakers of a registry."""

    def __init__(
        self,
        most: int,
        counts: LabelledCounts,
        actions: Listeners[Acted],
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """Make an empty collection; above `most` stacks the oldest ones are dropped."""
        self._most = most
        self._counts = counts
        self._actions = actions
        self._clock = clock
        self._random = random
        self._stacks: dict[str, Stack] = {}
        """By method and target."""
        self._budgets: dict[str, RetryBudget] = {}
        """The tokens of retry throttling, by target."""

    def of(self, name: str, target: str, configuration: Configuration, breaker: str) -> Stack | None:
        """The stack of a method, which a breaker of this name guards; `None` where its policy wants none."""
        policy = configuration.policy_of(name, target)
        if policy is None or not policy.in_adapter:
            return None
        key, counts = at_target(name, target), self._counts.of(breaker)
        stack = self._stacks.get(key)
        if stack is None:
            while len(self._stacks) >= self._most:
                self._stacks.pop(next(iter(self._stacks.copy()), ""), None)
            budget = self._budget(configuration, target)
            made = Stack(name, policy, budget, counts, self._actions, clock=self._clock, random=self._random)
            stack = self._stacks.setdefault(key, made)
        stack.counts = counts  # another policy may have given the method another breaker
        if stack.policy is not policy:  # pragma: no cover - another caller was faster: tests/model
            stack.reconfigure(policy, self._budget(configuration, target))
        return stack

    def reconfigure(self, configuration: Configuration) -> None:
        """Put another configuration in force; a stack that is not wanted any more is dropped."""
        for key, stack in self._stacks.copy().items():
            name, target = split_target(key)
            policy = configuration.policy_of(name, target)
            if policy is None or not policy.in_adapter:
                self._stacks.pop(key, None)
            else:
                stack.reconfigure(policy, self._budget(configuration, target))

    def _budget(self, configuration: Configuration, target: str) -> RetryBudget | None:
        """The tokens of retry throttling for calls to a target."""
        throttling = configuration.retry_throttling
        if throttling is None:
            return None
        budget = self._budgets.get(target) or self._budgets.setdefault(target, RetryBudget(throttling))
        budget.reconfigure(throttling)
        return budget
