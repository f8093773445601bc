"""Which breaker guards which method.

Names follow gRPC's own service config: a policy for "pkg.Service/Method" beats one for "pkg.Service" beats the default.
Each method has a breaker of its own, also when its policy was given for the whole service; a `group` in the policy
makes methods share one. Health checks, reflection and channelz are left alone unless named: a breaker must not refuse
the very call that says whether the server is well (Mimir #5650).

The registry is bounded. Above `max_breakers` the tenth that has been closed and idle longest is forgotten, so a client
that makes up method names cannot exhaust memory. Idle means: no call in flight, and nobody's policy or listener of its
own. So no open breaker is ever lost, nor what an operator did to one; for their sake the cap may be exceeded. A
forgotten breaker that somebody still holds is found again by its next call; only one that nobody holds begins anew,
with an empty window.
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from random import random as uniform
from typing import Any, Final

from grpc_breaker._core.breaker import CircuitBreaker, reset_after_fork
from grpc_breaker._core.events import Listeners, Rejection, StateChange
from grpc_breaker._core.ledger import Ledger
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.state import State

_NAME: Final = re.compile(r"/?([^\s/]+)(?:/([^\s/]+))?")
_CONFIGURABLE: Final = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*(/[A-Za-z_][\w-]*)?", re.ASCII)
_LEFT_ALONE: Final = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")
_DEFAULT_POLICY: Final = BreakerPolicy()


class BreakerRegistry:
    """The breakers of a process, or of a part of it: one for each RPC method, made on first use.

    One registry serves sync and asyncio interceptors, several channels, threads and event loops at once.
    """

    def __init__(
        self,
        policies: Mapping[str, BreakerPolicy] | None = None,
        *,
        default: BreakerPolicy | None = _DEFAULT_POLICY,
        max_breakers: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        """Make a registry.

        Args:
            policies: Policies by "pkg.Service/Method" or "pkg.Service", with or without a leading slash.
            default: For every other method. `None`: methods not named are left alone.
            max_breakers: Above so many breakers, idle closed ones are forgotten. Default 1000.
            clock: Seconds that never run backwards, from anywhere.
            random: A number in [0, 1), for the jitter of open periods.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A name that is no method or service name, one given twice, or a group with two policies.
        """
        if isinstance(max_breakers, bool) or not isinstance(max_breakers, int):
            message = f"BreakerRegistry max_breakers must be an integer, 1 or more, got {max_breakers!r}"
            raise TypeError(message)
        if max_breakers < 1:
            message = f"BreakerRegistry max_breakers must be an integer, 1 or more, got {max_breakers!r}"
            raise ValueError(message)
        if default is not None and not isinstance(default, BreakerPolicy):
            message = f"BreakerRegistry default must be a BreakerPolicy or None, got {default!r}"
            raise TypeError(message)
        self._policies = _checked_policies(policies, default)
        self._default = default
        self._max_breakers = max_breakers
        self._clock = clock
        self._random = random
        self.ledger = Ledger(frozenset((*self._policies, *self._groups())), max_breakers)
        """How many calls ended how; for telemetry."""
        self._remembered: weakref.WeakValueDictionary[str, CircuitBreaker] = weakref.WeakValueDictionary()
        self._routes: dict[str | bytes, tuple[CircuitBreaker, str]] = {}
        self._busy = False
        self._changes: Listeners[StateChange] = Listeners()
        self._rejections: Listeners[Rejection] = Listeners()
        CircuitBreaker("check", clock=clock, random=random)  # a bad clock is an error here, not at the first call
        reset_after_fork(self)

    def breaker_for(self, method: str | bytes) -> CircuitBreaker | None:
        """The breaker that guards a call of `method`, as gRPC spells it; `None` when it is left alone.

        Never raises for an odd name: gRPC lets applications call what they like.
        """
        route = self.route(method)
        return None if route is None else route[0]

    def route(self, method: str | bytes) -> tuple[CircuitBreaker, str] | None:
        """Like `breaker_for`, with the method's name as events spell it, without the leading slash."""
        return self._routes.get(method) or self._find_route(method)

    def __getitem__(self, method: str) -> CircuitBreaker:
        """The breaker of a method, or of a group; made if no call has used it yet.

        Raises:
            KeyError: No policy covers the name.
            TypeError: The name is not a string.
            ValueError: The name is no method name.
        """
        if isinstance(method, str) and (breaker := self.ledger.breakers.get(method)) is not None:
            return breaker
        if method in self._groups():
            return self._make(method, self._groups()[method])
        service, name = split_method(method)
        if not name:
            message = f"{method!r} names a service; its breakers are one for each method: {service}/<method>"
            raise ValueError(message)
        breaker = self.breaker_for(f"{service}/{name}")
        if breaker is None:
            why = (
                "no policy covers it, and there is no default"
                if self._default is None
                else "health checks, reflection and channelz are left alone unless named"
            )
            message = f"{service}/{name} has no breaker: {why}"
            raise KeyError(message)
        return breaker

    def __contains__(self, method: object) -> bool:
        """Whether the registry holds a breaker for the method or group now."""
        if not isinstance(method, str):
            return False
        name = method.removeprefix("/")
        policy = self._policy_of(name)
        return name in self.ledger.breakers or (policy is not None and policy.group in self.ledger.breakers)

    def __iter__(self) -> Iterator[CircuitBreaker]:
        """The breakers there are now, in the order they were made."""
        with self.ledger.lock:
            return iter(tuple(self.ledger.breakers.values()))

    def __len__(self) -> int:
        return len(self.ledger.breakers)

    def __bool__(self) -> bool:
        """A registry is something, also while it is empty."""
        return True

    def __repr__(self) -> str:
        unwell = [f"{breaker.name} {breaker.state}" for breaker in self if breaker.state is not State.CLOSED]
        return f"<BreakerRegistry of {len(self)} breakers: {', '.join(unwell) or 'all closed'}>"

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Every breaker's snapshot by name, as plain data ready for JSON."""
        return {breaker.name: breaker.snapshot() for breaker in self}

    def on_state_change(self, listener: Callable[[StateChange], object]) -> Callable[[], None]:
        """Call `listener` after each change of any state; see `CircuitBreaker.on_state_change`, also for its errors."""
        return self._changes.add(listener)

    def on_rejection(self, listener: Callable[[Rejection], object]) -> Callable[[], None]:
        """Call `listener` after each refusal by any breaker; see `CircuitBreaker.on_rejection`, also for its errors."""
        return self._rejections.add(listener)

    def _find_route(self, method: str | bytes) -> tuple[CircuitBreaker, str] | None:
        """Find the breaker for a method that was not called lately."""
        text = method.decode("utf-8", "replace") if isinstance(method, bytes) else str(method)
        name = text.removeprefix("/")
        policy = self._policy_of(name)
        if policy is None:
            return None
        breaker = self._make(policy.group or name or "/", policy, (method, name))  # a nameless method needs a name, too
        return breaker, name

    def _policy_of(self, name: str) -> BreakerPolicy | None:
        """The policy that covers a method, named without the leading slash."""
        service = name.rpartition("/")[0]
        policy = self._policies.get(name) or self._policies.get(service)
        if policy is None and not service.startswith(_LEFT_ALONE):
            return self._default
        return policy

    def _make(self, name: str, policy: BreakerPolicy, spelled: tuple[str | bytes, str] | None = None) -> CircuitBreaker:
        """Find or make a breaker, and route a method to it, spelled as gRPC does and as events do.

        A finalizer or a signal handler that makes a call may come in the middle, on the same thread: the lock is
        re-entrant. Such a visitor only adds. It forgets nobody, even above the cap, and where it has made the very
        breaker that is being made, that one is it.
        """
        forgotten: list[CircuitBreaker] = []
        with self.ledger.lock:
            visiting = self._busy
            try:
                self._busy = True
                breaker = self.ledger.breakers.get(name)
                if breaker is None:
                    if len(self.ledger.breakers) >= self._max_breakers and not visiting:
                        forgotten = self._forget_idle()
                    breaker = self.ledger.enter(self._remembered.get(name) or self._new(name, policy))
                    self._remembered[name] = breaker
                if spelled is not None:
                    if len(self._routes) >= 4 * self._max_breakers:
                        self._routes.clear()  # a cache of bounded size, rebuilt by the calls that come
                    self._routes[spelled[0]] = (breaker, spelled[1])
            finally:
                self._busy = visiting
        self.ledger.retire(forgotten)
        return breaker

    def _new(self, name: str, policy: BreakerPolicy) -> CircuitBreaker:
        breaker = CircuitBreaker(name, policy, clock=self._clock, random=self._random)
        breaker._also_tell(self._changes, self._rejections)
        return breaker

    def _forget_idle(self) -> list[CircuitBreaker]:
        """Forget the tenth of the breakers that were idle longest, so that a flood of names costs little each."""
        breakers = self.ledger.breakers.copy().values()  # a copy is one step, an iteration is not
        idle = [it for it in breakers if it.state is State.CLOSED and not it.in_use and not it.in_hand]
        idle.sort(key=lambda breaker: breaker._used)
        surplus = len(self.ledger.breakers) - self._max_breakers + 1
        forgotten = idle[: max(surplus, self._max_breakers // 10)]
        for breaker in forgotten:
            del self.ledger.breakers[breaker.name]
        names = {breaker.name for breaker in forgotten}
        for method, (breaker, _) in self._routes.copy().items():
            if breaker.name in names:
                self._routes.pop(method, None)
        return forgotten

    def _groups(self) -> dict[str, BreakerPolicy]:
        policies = [*self._policies.values(), *([self._default] if self._default else [])]
        return {policy.group: policy for policy in policies if policy.group}

    def _after_fork(self) -> None:
        """Begin with a fresh lock in a forked child: the thread that held it is not here."""
        self.ledger.lock = threading.RLock()
        self._busy = False


def split_method(name: object) -> tuple[str, str]:
    """Split "pkg.Service/Method" or "pkg.Service", with or without a leading slash; the method may be empty.

    Raises:
        TypeError: `name` is not a string.
        ValueError: It has another form.
    """
    if not isinstance(name, str):
        message = f"a method name must be a string like 'pkg.Service/Method', got {name!r}"
        raise TypeError(message)
    match = _NAME.fullmatch(name)
    if match is None:
        message = f"a method name must look like 'pkg.Service/Method' or 'pkg.Service', got {name!r}"
        raise ValueError(message)
    return match[1], match[2] or ""


def _checked_policies(
    policies: Mapping[str, BreakerPolicy] | None, default: BreakerPolicy | None
) -> dict[str, BreakerPolicy]:
    if policies is not None and not isinstance(policies, Mapping):
        message = f"BreakerRegistry policies must be a mapping of method name to BreakerPolicy, got {policies!r}"
        raise TypeError(message)
    checked: dict[str, BreakerPolicy] = {}
    for key, policy in (policies or {}).items():
        service, method = split_method(key)
        name = f"{service}/{method}" if method else service
        if not _CONFIGURABLE.fullmatch(name):
            message = f"a method name must look like 'pkg.Service/Method' or 'pkg.Service', no wildcards, got {key!r}"
            raise ValueError(message)
        if not isinstance(policy, BreakerPolicy):
            message = f"BreakerRegistry policy for {name!r} must be a BreakerPolicy, got {policy!r}"
            raise TypeError(message)
        if name in checked:
            message = f"BreakerRegistry has two policies for {name!r}, with and without a leading slash"
            raise ValueError(message)
        checked[name] = policy
    groups: dict[str, BreakerPolicy] = {}
    for policy in [*checked.values(), *([default] if default else [])]:
        if policy.group and groups.setdefault(policy.group, policy) != policy:
            message = f"BreakerRegistry group {policy.group!r} has two different policies; methods share one breaker"
            raise ValueError(message)
    return checked
