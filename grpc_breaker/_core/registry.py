"""Which breaker guards which method.

Names follow gRPC's own service config: a policy for "pkg.Service/Method" beats one for "pkg.Service" beats the default.
Each method has a breaker of its own, also when its policy was given for the whole service; a `group` in the policy
makes methods share one. Health checks, reflection and channelz are left alone unless named: a breaker must not refuse
the very call that says whether the server is well (Mimir #5650).

The registry is bounded, so a client that makes up method names cannot exhaust memory. Above `max_breakers`, the tenth
that has been idle longest is evicted. Idle means: closed, no call in flight, no policy or listener of its own. So no
open breaker is ever lost, nor what an operator did to one; where too many are not idle, the registry grows, up to ten
times `max_breakers`. Above that, new names that are not configured share one breaker, `other`. A breaker that is
evicted while somebody holds it is found again by its next call; only one that nobody holds begins anew, with an empty
window.

Threads. There is no lock: to enter a breaker is one step of a dictionary, and the breaker that is there first is the
one.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from random import random as uniform
from typing import Any, Final, NoReturn

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.callables import check_clock, check_random
from grpc_breaker._core.counts import LabelledCounts
from grpc_breaker._core.events import Listeners, Rejection, StateChange
from grpc_breaker._core.log import logger
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.state import OTHER, State

_NAME: Final = re.compile(r"/?([^\s/]+)(?:/([^\s/]+))?")
_CONFIGURABLE: Final = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*(/[A-Za-z_][\w-]*)?", re.ASCII)
_LEFT_ALONE: Final = ("grpc.health.", "grpc.reflection.", "grpc.channelz.")
_DEFAULT_POLICY: Final = BreakerPolicy()

_HARD_CAP: Final = 10
"""Times `max_breakers` that a registry may hold where too few of its breakers are idle."""

_SEARCH_EVERY: Final = 1.0
"""Seconds between two searches for idle breakers, after one that found none."""


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
            max_breakers: Above so many breakers, idle closed ones are evicted. Default 1000.
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
        check_clock(clock)
        check_random(random)
        self._policies = _checked_policies(policies, default)
        self._default = default
        self._max_breakers = max_breakers
        self._clock = clock
        self._random = random
        self._configured = frozenset((*self._policies, *self._groups()))
        self.counts = LabelledCounts(self._configured, max_breakers)
        """How many calls ended how; for telemetry."""
        self._breakers: dict[str, CircuitBreaker] = {}
        self._held: weakref.WeakValueDictionary[str, CircuitBreaker] = weakref.WeakValueDictionary()
        """Every breaker that somebody holds, evicted ones included."""
        self._routes: dict[str | bytes, tuple[CircuitBreaker, str]] = {}
        self._search_after = -1e9
        self._warned = False
        self._changes: Listeners[StateChange] = Listeners()
        self._rejections: Listeners[Rejection] = Listeners()

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
        if isinstance(method, str) and (breaker := self._breakers.get(method)) is not None:
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
        return name in self._breakers or (policy is not None and policy.group in self._breakers)

    def __iter__(self) -> Iterator[CircuitBreaker]:
        """The breakers there are now, in the order they were made."""
        return iter(list(self._breakers.values()))  # a copy is one step, an iteration is not

    def __len__(self) -> int:
        return len(self._breakers)

    def __bool__(self) -> bool:
        """A registry is something, also while it is empty."""
        return True

    def __repr__(self) -> str:
        unwell = [f"{breaker.name} {breaker.state}" for breaker in self if breaker.state is not State.CLOSED]
        return f"<BreakerRegistry of {len(self)} breakers: {', '.join(unwell) or 'all closed'}>"

    def __reduce__(self) -> NoReturn:
        message = "a breaker registry cannot be copied or pickled: a copy would share a part of its state"
        raise TypeError(message)

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Every breaker's snapshot by name, as plain data ready for JSON."""
        return {breaker.name: breaker.snapshot() for breaker in self}

    def on_state_change(self, listener: Callable[[StateChange], object], *, key: object = None) -> Callable[[], None]:
        """Call `listener` after each change of any state; see `CircuitBreaker.on_state_change`, also for its errors.

        Args:
            listener: What to call.
            key: A name for the listener; while there is one of that name, another is not added. Default: no name.
        """
        return self._changes.add(listener, key)

    def on_rejection(self, listener: Callable[[Rejection], object]) -> Callable[[], None]:
        """Call `listener` after each refusal by any breaker; see `CircuitBreaker.on_rejection`, also for its errors."""
        return self._rejections.add(listener)

    def _find_route(self, method: str | bytes) -> tuple[CircuitBreaker, str] | None:
        """Find the breaker for a method that was not called lately, and remember it."""
        text = method.decode("utf-8", "replace") if isinstance(method, bytes) else str(method)
        name = text.removeprefix("/")
        policy = self._policy_of(name)
        if policy is None:
            return None
        breaker = self._make(policy.group or name or "/", policy)  # a nameless method needs a name, too
        if len(self._routes) >= 4 * self._max_breakers:
            self._routes.clear()  # a cache of bounded size, rebuilt by the calls that come
        self._routes[method] = route = (breaker, name)
        if (
            self._breakers.setdefault(breaker.name, breaker) is not breaker
        ):  # pragma: no cover - another caller was faster: tests/model
            self._routes.pop(method, None)  # evicted meanwhile, and made again
        return route

    def _policy_of(self, name: str) -> BreakerPolicy | None:
        """The policy that covers a method, named without the leading slash."""
        service = name.rpartition("/")[0]
        policy = self._policies.get(name) or self._policies.get(service)
        if policy is None and not service.startswith(_LEFT_ALONE):
            return self._default
        return policy

    def _make(self, name: str, policy: BreakerPolicy) -> CircuitBreaker:
        """The breaker of this name, made if there is none."""
        breaker = self._breakers.get(name)
        if breaker is not None:
            return breaker
        if len(self._breakers) >= self._max_breakers:
            self._evict_idle()
            if len(self._breakers) >= _HARD_CAP * self._max_breakers and name not in self._configured:
                self._warn_of_names()
                name, policy = OTHER, self._default or policy
        breaker = self._held.get(name)
        if breaker is None:
            counts = self.counts.of(name)
            breaker = CircuitBreaker._of_registry(
                name, policy, self._clock, self._random, counts, self._changes, self._rejections
            )
        breaker = self._breakers.setdefault(name, breaker)
        self._held[name] = breaker
        return breaker

    def _evict_idle(self) -> None:
        """Evict the tenth of the breakers that were idle longest, so that a flood of names costs little each.

        A search that finds none looks at every breaker, so the next one waits.
        """
        now = self._clock()
        if now < self._search_after:
            return
        idle = [breaker for breaker in self if breaker._evictable]
        idle.sort(key=lambda breaker: breaker._used)
        surplus = len(self._breakers) - self._max_breakers + 1
        evicted = idle[: max(surplus, self._max_breakers // 10)]
        if not evicted:
            self._search_after = now + _SEARCH_EVERY
            return
        for breaker in evicted:
            if breaker._evictable and self._breakers.get(breaker.name) is breaker:
                self._breakers.pop(breaker.name, None)
        names = {breaker.name for breaker in evicted}
        for method, (breaker, _) in self._routes.copy().items():
            if breaker.name in names:
                self._routes.pop(method, None)

    def _warn_of_names(self) -> None:
        """Say once that names share a breaker."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "%d breakers and none of them is idle: from now on, methods with new names share the breaker %r; "
                "are these names made up?",
                len(self._breakers),
                OTHER,
            )

    def _groups(self) -> dict[str, BreakerPolicy]:
        policies = [*self._policies.values(), *([self._default] if self._default else [])]
        return {policy.group: policy for policy in policies if policy.group}


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
