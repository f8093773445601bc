"""Which breaker guards which method.

Each method has a breaker of its own, also when its policy was given for the whole service; a `group` in the policy
makes methods share one. Channels to several targets have breakers of their own where their interceptors are told the
target's name, see `target.py`. Which policy covers which method stands in `configuration.py`.

Another configuration is put in force at once: for calls of methods that were not called yet, and for breakers that are
there, whose states, windows and calls in flight stay as they are.

The registry is bounded, so a client that makes up method names cannot exhaust memory. Above `max_breakers`, the tenth
that has been idle longest is evicted. Idle means: closed, no call in flight, no policy or listener of its own. So no
open breaker is ever lost, nor what an operator did to one; where too many are not idle, the registry grows, up to ten
times `max_breakers`, and twice that for configured methods at targets. Above that, new names that are not configured
share one breaker, `other`. A breaker that is evicted while somebody holds it is found again by its next call; only one
that nobody holds begins anew, with an empty window.

Threads. There is no lock: to enter a breaker is one step of a dictionary, and the breaker that is there first is the
one.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from random import random as uniform
from typing import Any, Final, NoReturn

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.callables import check_clock, check_random
from grpc_breaker._core.configuration import Configuration
from grpc_breaker._core.counts import LabelledCounts
from grpc_breaker._core.events import Listeners, StateChange
from grpc_breaker._core.holds_by_name import HoldsByName
from grpc_breaker._core.log import warn
from grpc_breaker._core.method_policy import MethodPolicy, RetryThrottling
from grpc_breaker._core.names import split_key, split_method
from grpc_breaker._core.operators import put_method_policy_in_force
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.recording import Recorders, note_recorders
from grpc_breaker._core.refusing import Rejection
from grpc_breaker._core.stack import Acted, Stack
from grpc_breaker._core.stacks import Stacks
from grpc_breaker._core.state import OTHER, State
from grpc_breaker._core.target import at_target, check_target, split_target

_DEFAULT_POLICY: Final = BreakerPolicy()

Route = tuple[CircuitBreaker, str, Stack | None]
"""The breaker that guards a method's calls, the method's name as events spell it, and what is wanted around it."""

LeftAlone = tuple[()]
"""In the place of the route of a method without a breaker."""

_HARD_CAP: Final = 10
"""Times `max_breakers` that a registry may hold where too few of its breakers are idle."""

_SEARCH_EVERY: Final = 1.0
"""Seconds between two searches for idle breakers, after one that found none."""


class Registry:
    """The breakers of a process, or of a part of it: one for each RPC method, made on first use.

    One registry serves sync and asyncio interceptors, several channels, threads and event loops at once.
    """

    def __init__(
        self,
        policies: Mapping[Any, BreakerPolicy | MethodPolicy] | None = None,
        *,
        default: BreakerPolicy | MethodPolicy | None = _DEFAULT_POLICY,
        retry_throttling: RetryThrottling | None = None,
        max_breakers: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> None:
        """Make a registry.

        Args:
            policies: Policies by "pkg.Service/Method" or "pkg.Service", with or without a leading slash; for one
                target alone by ("pkg.Service/Method", "eu"). A method's own policy beats its service's, and of two for
                the same name, the one for the target counts.
            default: For every other method. `None`: methods not named are left alone.
            retry_throttling: When retries stop because too many calls fail. Default `None`: never.
            max_breakers: Above so many breakers, idle closed ones are evicted. Default 1000.
            clock: Returns seconds that never run backwards, counted from any moment.
            random: Returns a number in [0, 1), for the jitter of open periods.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A name that is no method or service name, one given twice, or a group with two policies.
        """
        message = f"BreakerRegistry max_breakers must be an integer, 1 or more, got {max_breakers!r}"
        if isinstance(max_breakers, bool) or not isinstance(max_breakers, int):
            raise TypeError(message)
        if max_breakers < 1:
            raise ValueError(message)
        check_clock(clock)
        check_random(random)
        self._configuration = Configuration(policies, default, retry_throttling)
        self._max_breakers = max_breakers
        self._clock = clock
        self._random = random
        self.counts = LabelledCounts(self._configuration.configured, max_breakers)
        """For telemetry: how many calls ended how."""
        self.actions: Listeners[Acted] = Listeners()
        """Who is told of retries and of answers of fallbacks; for telemetry."""
        self._breakers: dict[str, CircuitBreaker] = {}
        self._held: weakref.WeakValueDictionary[str, CircuitBreaker] = weakref.WeakValueDictionary()
        """Every breaker that somebody holds, evicted ones included."""
        self._routes: dict[str, dict[str | bytes, Route | LeftAlone]] = {}
        """By target, then by method as gRPC spells it: the breakers that calls found lately."""
        self._stacks = Stacks(4 * max_breakers, self.counts, self.actions, clock, random)
        """What is wanted around the breakers: as many at most as there are routes."""
        self._holds = HoldsByName()
        self._search_after = -1e9
        self._warned = False
        self._changes: Listeners[StateChange] = Listeners()
        self._rejections: Listeners[Rejection] = Listeners()
        self._recorders = Recorders()

    def breaker_for(self, method: str | bytes, target: str | None = None) -> CircuitBreaker | None:
        """The breaker that guards a call of `method`, as gRPC spells it; `None` when it is left alone.

        Never raises for an odd name of a method: gRPC lets applications call what they like.
        """
        route = self.route(method, check_target(target))
        return None if route is None else route[0]

    def routes_to(self, target: str) -> dict[str | bytes, Route | LeftAlone]:
        """The breakers that calls to a target found lately, by method as gRPC spells it; empty for what is left alone.

        Only to be read, and to be asked for again after `route`: what is empty for a while is dropped.
        """
        return self._routes.setdefault(target, {})

    def route(self, method: str | bytes, target: str = "") -> Route | None:
        """Like `breaker_for`, with the method's name as events spell it, without the leading slash."""
        return self.routes_to(target).get(method) or self._find_route(method, target)

    def __getitem__(self, key: str | tuple[str, str]) -> CircuitBreaker:
        """The breaker of a method, or of a group; made if no call has used it yet.

        Args:
            key: "pkg.Service/Method"; for one target ("pkg.Service/Method", "eu") or "pkg.Service/Method@eu".

        Raises:
            KeyError: No policy covers the name.
            TypeError: The name is not a string.
            ValueError: The name is no method name, or the target none.
        """
        if isinstance(key, str) and (breaker := self._breakers.get(key)) is not None:
            return breaker
        method, target = split_key(key)
        configuration = self._configuration
        if method in configuration.groups:
            return self._make(at_target(method, target), configuration.groups[method], configuration)
        service, name = split_method(method)
        if not name:
            message = f"{method!r} names a service; its breakers are one for each method: {service}/<method>"
            raise ValueError(message)
        breaker = self._breaker_of(f"{service}/{name}", target, configuration)
        if breaker is None:
            why = (
                "no policy covers it, and there is no default"
                if configuration.default is None
                else "health checks, reflection and channelz are left alone unless named"
            )
            message = f"{service}/{name} has no breaker: {why}"
            raise KeyError(message)
        return breaker

    def __contains__(self, key: object) -> bool:
        """Whether the registry holds a breaker for the method or group now."""
        try:
            method, target = split_key(key)
        except (TypeError, ValueError):
            return False
        name = method.removeprefix("/")
        policy = self._configuration.policy_of(name, target)
        group = "" if policy is None else policy.breaker_policy.group or ""
        return at_target(name, target) in self._breakers or at_target(group, target) in self._breakers

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

    def reconfigure(
        self,
        policies: Mapping[Any, BreakerPolicy | MethodPolicy] | None = None,
        *,
        default: BreakerPolicy | MethodPolicy | None = _DEFAULT_POLICY,
        retry_throttling: RetryThrottling | None = None,
    ) -> tuple[str, ...]:
        """Put other policies in force, for breakers that are there and for methods that were not called yet.

        All or nothing: where one is wrong, nothing changes. The states of breakers, what they counted and the calls in
        flight stay, see `CircuitBreaker.reconfigure`; calls under way keep the timeout, the retries and the fallback
        that they began with. A breaker that an operator has reconfigured by itself keeps that policy, unless that of
        its name is another one now.

        Args:
            policies: As for the constructor.
            default: As for the constructor.
            retry_throttling: As for the constructor.

        Returns:
            The names whose policy is another one now, sorted; "" stands for the default.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A name that is no method or service name, one given twice, or a group with two policies.
        """
        new, now = Configuration(policies, default, retry_throttling), self._clock()
        self.counts.configure(new.configured)
        old, self._configuration = self._configuration, new
        while True:
            self._apply_everywhere(applied := self._configuration, now)
            if applied is self._configuration:  # pragma: no branch - else another one was put in force meanwhile
                return new.differences(old)

    def _apply_everywhere(self, configuration: Configuration, now: float) -> None:
        for breaker in self._all_held():
            self._apply(configuration, breaker, now)
        self._stacks.reconfigure(configuration)
        for routes in list(self._routes.values()):
            routes.clear()

    def _all_held(self) -> list[CircuitBreaker]:
        """Every breaker that somebody holds, evicted ones included."""
        return [breaker for held in self._held.valuerefs() if (breaker := held()) is not None]

    def _apply(self, configuration: Configuration, breaker: CircuitBreaker, now: float) -> None:
        """Put the policy of a configuration in force in a breaker; one that no call uses any more is forgotten."""
        policy, before = configuration.policy_of_breaker(breaker.name), breaker._wanted
        was_group = before is not None and before.breaker_policy.group
        if policy is not None and (policy.breaker_policy.group or not was_group):  # no method has a group's name
            put_method_policy_in_force(breaker, policy, now)
        elif self._breakers.get(breaker.name) is breaker:
            self._breakers.pop(breaker.name, None)

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

    def _find_route(self, method: str | bytes, target: str) -> Route | None:
        """Find the breaker for a method that was not called lately, and remember it."""
        text = method.decode("utf-8", "replace") if isinstance(method, bytes) else str(method)
        name = text.removeprefix("/")
        while True:
            configuration = self._configuration
            configuration.unmatched.note(name)
            breaker = self._breaker_of(name, target, configuration)
            routes = self.routes_to(target)
            if len(routes) >= 4 * self._max_breakers:
                routes.clear()  # a cache of bounded size, rebuilt by the calls that come
            route: Route | LeftAlone = ()
            if breaker is not None:
                route = (breaker, name, self._stacks.of(name, target, configuration, breaker.name))
            routes[method] = route
            there = breaker is None or self._breakers.setdefault(breaker.name, breaker) is breaker
            if there and self._configuration is configuration:  # pragma: no branch - else another caller was faster
                return route or None
            routes.pop(method, None)  # pragma: no cover - evicted and made again, or another policy: tests/model
            if breaker is not None:  # pragma: no cover
                self._apply(self._configuration, breaker, self._clock())

    def _breaker_of(self, name: str, target: str, configuration: Configuration) -> CircuitBreaker | None:
        """The breaker of a method, named without the leading slash; `None` when it is left alone."""
        policy = configuration.policy_of(name, target)
        if policy is None:
            return None
        group = policy.breaker_policy.group
        return self._make(at_target(group or name or "/", target), policy, configuration)  # the nameless need a name

    def _make(self, name: str, policy: MethodPolicy, configuration: Configuration) -> CircuitBreaker:
        """The breaker of this name, made if there is none."""
        breaker = self._breakers.get(name)
        if breaker is not None:
            return breaker
        if len(self._breakers) >= self._max_breakers:
            self._evict_idle()
            configured = configuration.configured
            room = _HARD_CAP * self._max_breakers * (1 + (split_target(name)[0] in configured))
            if len(self._breakers) >= room and name not in configured:
                if not self._warned:
                    self._warned = True
                    _warn_of_names(len(self._breakers))
                name, policy = OTHER, configuration.default or policy
        breaker = self._held.get(name)
        if breaker is None:
            counts = self.counts.of(name)
            breaker = CircuitBreaker._of_registry(
                name, policy, self._clock, self._random, counts, self._changes, self._rejections, self._recorders
            )
        breaker = self._breakers.setdefault(name, breaker)
        self._held[name] = breaker
        self._holds.tell(breaker)
        if self._recorders:
            note_recorders(breaker)  # of those who came since it was made
        if self._configuration is not configuration:  # pragma: no cover - another caller was faster: tests/model
            self._apply(self._configuration, breaker, self._clock())
        return breaker

    def _evict_idle(self) -> None:
        """Evict the tenth of the breakers that were idle longest, so that a flood of names costs little each.

        A search that finds none looks at every breaker, so the next one waits.
        """
        now = self._clock()
        if now < self._search_after:
            return
        idle = sorted((breaker for breaker in self if breaker._evictable), key=lambda breaker: breaker._used)
        surplus = len(self._breakers) - self._max_breakers + 1
        evicted = idle[: max(surplus, self._max_breakers // 10)]
        if not evicted:
            self._search_after = now + _SEARCH_EVERY
            return
        for breaker in evicted:
            if breaker._evictable and self._breakers.get(breaker.name) is breaker:
                self._breakers.pop(breaker.name, None)
        names = {breaker.name for breaker in evicted}
        for target, routes in self._routes.copy().items():
            for method in [method for method, route in routes.copy().items() if route and route[0].name in names]:
                routes.pop(method, None)
            if not any(routes.values()):  # else targets that come and go would fill memory
                self._routes.pop(target, None)
                routes.clear()  # a guard that has it asks for a new one, also for what is left alone


def _warn_of_names(breakers: int) -> None:
    """Say that names share a breaker."""
    warn(
        "%d breakers and none of them is idle: from now on, methods with new names share the breaker %r; "
        "are these names made up?",
        breakers,
        OTHER,
    )
