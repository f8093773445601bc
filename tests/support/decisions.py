"""A registry with one method's policy, for tests of the one decision: its clock, its chance, and the calls it refuses."""

from __future__ import annotations

from typing import Any

from grpc_breaker import BreakerPolicy, BreakerRegistry, CallRefusedError, CircuitBreaker, MethodPolicy, Permit
from grpc_breaker.testing import FakeClock

METHOD = "pkg.S/M"


class Chance:
    """A source of chance that says what it is told to: at first 0."""

    def __init__(self) -> None:
        self.next = 0.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.next


class Guarded:
    """A registry in which one policy covers `pkg.S`; `breaker` is that of `pkg.S/M`."""

    def __init__(self, policy: MethodPolicy | BreakerPolicy) -> None:
        self.clock = FakeClock()
        self.chance = Chance()
        self.breakers = BreakerRegistry({"pkg.S": policy}, default=None, clock=self.clock, random=self.chance)

    @property
    def breaker(self) -> CircuitBreaker:
        """The breaker of the method."""
        return self.breakers[METHOD]

    def admit(self, **how: Any) -> Permit:
        """Make a call, which must be admitted."""
        return self.breaker.admit(METHOD, **how)

    def refusal(self, **how: Any) -> CallRefusedError | None:
        """Ask for a call: what refuses it, or `None` if it was admitted, in which case it is given back unused."""
        try:
            self.breaker.admit(METHOD, **how).ignore()
        except CallRefusedError as error:
            return error
        return None

    def passed(self, calls: int) -> int:
        """Ask for so many calls that go on; how many of them were admitted."""
        admitted = 0
        for _ in range(calls):
            try:
                self.breaker.admit(METHOD)
            except CallRefusedError:
                continue
            admitted += 1
        return admitted

    def fail(self, calls: int = 1) -> None:
        """Calls that fail."""
        for _ in range(calls):
            self.breaker.admit(METHOD).failure("UNAVAILABLE", "ill")

    def succeed(self, calls: int = 1) -> None:
        """Calls that succeed."""
        for _ in range(calls):
            self.breaker.admit(METHOD).success()


def quick(**policy: Any) -> BreakerPolicy:
    """One failure opens it for ten seconds, one probe closes it; or as `policy` says."""
    rules: dict[str, Any] = {
        "consecutive_failures": 1,
        "half_open_max_calls": 1,
        "reset_timeout": 10,
        "reset_timeout_jitter": 0,
    }
    return BreakerPolicy(**{**rules, **policy})
