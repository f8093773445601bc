"""What a registry was told: which policy covers which method. Immutable, and replaced as a whole.

Names follow gRPC's own service config: a policy for "pkg.Service/Method" beats one for "pkg.Service" beats the default;
of two for the same name, the one for the call's target counts. Nothing is merged. Health checks, reflection and
channelz are left alone unless named: a breaker must not refuse the very call that says whether the server is well
(Mimir #5650).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grpc_breaker._core.method_policy import MethodPolicy, RetryThrottling
from grpc_breaker._core.names import UnmatchedNames, checked_policies, method_policy
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.state import OTHER
from grpc_breaker._core.target import at_target, split_target

_LEFT_ALONE: Final = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")


class Configuration:
    """The policies of a registry."""

    __slots__ = ("configured", "default", "groups", "policies", "retry_throttling", "unmatched")

    def __init__(
        self,
        policies: Mapping[Any, BreakerPolicy | MethodPolicy] | None,
        default: BreakerPolicy | MethodPolicy | None,
        retry_throttling: RetryThrottling | None,
    ) -> None:
        """Check the policies.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A name that is no method or service name, one given twice, or a group with two policies.
        """
        if default is not None and not isinstance(default, BreakerPolicy | MethodPolicy):
            message = f"BreakerRegistry default must be a BreakerPolicy, a MethodPolicy or None, got {default!r}"
            raise TypeError(message)
        if retry_throttling is not None and not isinstance(retry_throttling, RetryThrottling):
            message = f"BreakerRegistry retry_throttling must be a RetryThrottling or None, got {retry_throttling!r}"
            raise TypeError(message)
        self.default = None if default is None else method_policy(default)
        self.policies = checked_policies(policies, self.default)
        self.retry_throttling = retry_throttling
        everything = [*self.policies.values(), *([self.default] if self.default else [])]
        self.groups = {group: policy for policy in everything if (group := policy.breaker_policy.group)}
        """A policy of each group; those of one group agree in all that its breaker does."""
        self.configured = frozenset((*self.policies, *self.groups))
        """Names that are always labels of their own."""
        self.unmatched = UnmatchedNames(self.policies)

    def policy_of(self, name: str, target: str) -> MethodPolicy | None:
        """The policy that covers a method, named without the leading slash; `None` where it is left alone."""
        policies = self.policies
        service = name.rpartition("/")[0]
        covering = (at_target(name, target), name, at_target(service, target), service)
        policy = next((policies[it] for it in covering if it in policies), None)
        if policy is None and not service.startswith(_LEFT_ALONE):
            return self.default
        return policy

    def policy_of_breaker(self, name: str) -> MethodPolicy | None:
        """The policy of the breaker of this name; `None` where no call would use a breaker of this name."""
        of, target = split_target(name)
        if of == OTHER:
            return self.default
        if of in self.groups:
            return self.groups[of]
        policy = self.policy_of(of, target)
        return None if policy is None or policy.breaker_policy.group else policy

    def differences(self, before: Configuration) -> tuple[str, ...]:
        """The names whose policy is not what it was, sorted; "" stands for the default."""
        names = {*self.policies, *before.policies}
        different = {name for name in names if self.policies.get(name) != before.policies.get(name)}
        if self.default != before.default:
            different.add("")
        return tuple(sorted(different))
