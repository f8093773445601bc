"""Holds that operators give a registry by name: for the breakers that there are, and for those made while a hold lasts.

A name is that of a method, "pkg.Service/Method", of a service, "pkg.Service", or of a group; at all targets or, with
"@eu" after it, at one. "@eu" alone is everything at that target. The name of a method in a group means the group's
breaker. A name that no breaker and no policy has is an error, because a misspelt one would hold nothing; and so is a
service whose methods are all in a group, because the group may have methods of other services.

Of several orders that cover one breaker the last counts, a reset, too. An order is kept until all are over, because an
earlier one must not come back when a later one ends. To keep one is one step of a dictionary; a breaker that is made
meanwhile is entered first and then looks for orders, so one of the two finds the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.configuration import Configuration
from grpc_breaker._core.holds import Hold
from grpc_breaker._core.operators import close, operate
from grpc_breaker._core.spelling import nearest
from grpc_breaker._core.state import State
from grpc_breaker._core.target import check_target, split_target


class Name(NamedTuple):
    """What an order is for."""

    of: str
    """A method, a service or a group; empty for everything at a target."""
    target: str
    """Empty for all targets."""

    def covers(self, other: Name) -> bool:
        """Whether this name means all that the other one means."""
        within = not self.of or other.of == self.of or other.of.startswith(f"{self.of}/")
        return within and self.target in {"", other.target}


def name_of(key: object, breakers: Iterable[CircuitBreaker], configuration: Configuration) -> Name:
    """What a key means, of the breakers of a registry and of those it may make.

    Raises:
        TypeError: It is no string.
        ValueError: No breaker and no policy has the name, or its methods are in a group.
    """
    if not isinstance(key, str):
        message = f"a name must be a string like 'pkg.Service/Method', 'pkg.Service' or '@target', got {key!r}"
        raise TypeError(message)
    name = parse_name(key, configuration)
    known = {*configuration.configured, *(breaker.name for breaker in breakers)}
    in_groups = {it: group for it, policy in configuration.policies.items() if (group := policy.breaker_policy.group)}
    if name == ("", "") or not any(name.covers(meant_by(it)) for it in known - in_groups.keys()):
        if group := in_groups.get(name.of):
            message = f"no breaker has the name {key!r}: its methods share the breaker {group!r}"
            raise ValueError(message)
        near = nearest(key, sorted(known | {it.rpartition("/")[0] for it in known if "/" in it}))
        hint = f"; did you mean {near!r}?" if near else ""
        message = f"no breaker and no policy has the name {key!r}{hint}"
        raise ValueError(message)
    return name


def parse_name(key: str, configuration: Configuration) -> Name:
    """What a key means, whether or not there is anything of that name.

    Raises:
        ValueError: A target that is none.
    """
    of, at, target = key.rpartition("@")
    name = Name((of if at else key).removeprefix("/"), check_target(target) if at else "")
    policy = configuration.policy_of(*name) if "/" in name.of else None
    return name if policy is None or not policy.breaker_policy.group else name._replace(of=policy.breaker_policy.group)


def meant_by(breaker: str) -> Name:
    """What the name of a breaker means."""
    return Name(*split_target(breaker))


class HoldsByName:
    """The orders that a registry was given by name."""

    __slots__ = ("_orders",)

    def __init__(self) -> None:
        self._orders: dict[Name, tuple[State, Hold]] = {}
        """The state ordered for each name, the last order last; closed is that of a reset."""

    def give(self, name: Name, state: State, hold: Hold, breakers: Iterable[CircuitBreaker]) -> tuple[str, ...]:
        """Give an order, for the breakers of a registry and for those to come; returns the names of those there are."""
        for replaced in [it for it in list(self._orders) if name.covers(it)]:
            self._orders.pop(replaced, None)
        self._orders[name] = (state, hold)
        covered = [breaker for breaker in breakers if name.covers(meant_by(breaker.name))]
        for breaker in covered:
            _obey(breaker, state, hold)
        return tuple(sorted(breaker.name for breaker in covered))

    def tell(self, breaker: CircuitBreaker) -> None:
        """Have a breaker that was just made obey the last order that covers it."""
        name = meant_by(breaker.name)
        for covering, (state, hold) in reversed(list(self._orders.items())):
            if covering.covers(name):
                if breaker._clock() < hold.until and state is not State.CLOSED:
                    _obey(breaker, state, hold)
                return


def _obey(breaker: CircuitBreaker, state: State, hold: Hold) -> None:
    if state is State.CLOSED:
        close(breaker)
    else:
        operate(breaker, state, hold)
