"""What is played: policies in Python, service configs, and the text of `--policy`; with what of them is not played."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any, Final, cast

from grpc_breaker._core.log import printable
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.spelling import nearest_field
from grpc_breaker._registry import BreakerRegistry
from grpc_breaker._service_config import read

Policy = BreakerPolicy | MethodPolicy | Mapping[Any, Any] | str | PathLike[str] | None
"""A policy for every method; policies by method or service, as a registry takes them; or a service config: a path, or a
dict with a "methodConfig". `None`: the default policy."""

_TEXTS: Final = frozenset({"group", "refusal_code"})
_COUNTS: Final = frozenset(
    {
        "failure_threshold",
        "consecutive_failures",
        "half_open_successes",
        "half_open_max_calls",
        "minimum_calls",
        "window_calls",
    }
)
_LIMITS: Final = ("max_concurrent_calls",)
_NOT_IN_TEXT: Final = frozenset({"verdicts", "classify"})


@dataclass(frozen=True)
class Played:
    """A policy to play."""

    name: str
    make: Callable[[Callable[[], float], Callable[[], float]], BreakerRegistry]
    """Makes its registry, with a clock and a source of chance."""
    plain: dict[str, Any]
    """What it says, as plain data."""
    not_played: tuple[str, ...] = ()
    """Parts of it that the record cannot show."""
    base: BreakerPolicy | None = None
    """The one policy for all methods, where it is that: what sensitivity varies."""


def played(name: str, policy: Policy) -> Played:
    """Check a policy, and prepare it.

    Raises:
        TypeError: It is none, or a part of it is of a wrong kind.
        ValueError: It is wrong; of a service config, all that is wrong (`ServiceConfigError`).
    """
    policy = BreakerPolicy() if policy is None else policy
    if not isinstance(policy, BreakerPolicy | MethodPolicy | Mapping | str | PathLike):
        allowed = "a BreakerPolicy, a MethodPolicy, policies by method, a service config, or None"
        message = f"policy {name!r} must be {allowed}, got {policy!r}"
        raise TypeError(message)
    policies: Mapping[Any, BreakerPolicy | MethodPolicy] = {}
    default: BreakerPolicy | MethodPolicy | None = BreakerPolicy()
    base: BreakerPolicy | None = None
    only_named: tuple[str, ...] = ()
    if isinstance(policy, BreakerPolicy | MethodPolicy):
        base, default = policy if isinstance(policy, BreakerPolicy) else policy.breaker, policy
    elif isinstance(policy, str | PathLike) or "methodConfig" in policy:
        config = read(policy, None)
        policies, default, only_named = config.policies, config.default, (_ONLY_NAMED,)
    else:
        policies = policy

    def make(clock: Callable[[], float], random: Callable[[], float]) -> BreakerRegistry:
        return BreakerRegistry(policies, default=default, clock=clock, random=random)

    parts = dict(_parts(make(lambda: 0.0, lambda: 0.5)))
    plain = {where or "default": _plain(part) for where, part in parts.items()}
    not_played = {it for part in parts.values() for it in _not_played(part)}
    if any(part.breaker is not None and part.breaker.classify is not None for part in parts.values()):
        not_played.update(only_named)
    return Played(name, make, plain, tuple(sorted(not_played)), base)


_ONLY_NAMED: Final = "functions that classify calls: a service config only names them, so the status alone decides"


def _parts(registry: BreakerRegistry) -> Iterator[tuple[str, MethodPolicy]]:
    configuration = registry._configuration  # what it was told, as it understood it
    yield from configuration.policies.items()
    if configuration.default is not None:
        yield "", configuration.default


def _plain(policy: MethodPolicy) -> dict[str, Any]:
    """What a policy says that is not its default."""
    said: dict[str, Any] = {}
    if policy.breaker is None:
        said["breaker"] = None
    else:
        default = BreakerPolicy().as_dict()
        said.update({name: it for name, it in policy.breaker.as_dict().items() if it != default[name]})
    for name in ("max_concurrent_calls", "rate_limit", "throttle", "timeout", "attempt_timeout", "retry", "fallback"):
        value = getattr(policy, name)
        if value is not None:
            said[name] = value if isinstance(value, int | float) else repr(value)
    return said


def _not_played(policy: MethodPolicy) -> Iterator[str]:
    if policy.retry is not None:
        yield "retries: a call that was refused or failed is not made again"
    if policy.fallback is not None:
        yield "fallbacks: a refused call counts as refused, whatever its caller would get"
    if policy.timeout is not None or policy.attempt_timeout is not None:
        yield "timeouts: a call ends when it did in the record"
    breaker = policy.breaker
    if breaker is not None and (breaker.classify is not None or (breaker.verdicts_by_reason)):
        yield "what classifies calls by more than their status sees no metadata: there is none in a record"


def parsed(text: str) -> BreakerPolicy:
    """The policy that a text says: "consecutive_failures=3,reset_timeout=10"; "default" for the default one.

    Raises:
        ValueError: It says none.
    """
    if text.strip() in {"", "default"}:
        return BreakerPolicy()
    names = [it.name for it in fields(BreakerPolicy) if it.name not in _NOT_IN_TEXT]
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (it.strip() for it in part.partition("="))
        if name not in names:
            near = nearest_field(name, names)
            hint = f"; did you mean {near!r}?" if near else ""
            message = f"a policy is 'default' or FIELD=VALUE,…, and has no field {printable(name)!r}{hint}"
            raise ValueError(message)
        if not equals or name in given:
            message = f"{name} needs one value: {name}=…"
            raise ValueError(message)
        given[name] = _value(name, value)
    try:
        return BreakerPolicy(**given)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _value(name: str, text: str) -> Any:
    if text.lower() in {"none", "null", "off"}:
        return None
    if name in _TEXTS:
        return text
    try:
        return int(text) if name in _COUNTS else float(text)
    except ValueError:
        kind = "an integer" if name in _COUNTS else "a number"
        message = f"{name} must be {kind}, got {printable(text)!r}"
        raise ValueError(message) from None


def named(policies: Mapping[str, Policy]) -> list[Played]:
    """Prepare several policies, by their names.

    Raises:
        TypeError: No mapping of names to policies, or one of them is none.
        ValueError: There is none, or one is wrong.
    """
    if not isinstance(cast("object", policies), Mapping):
        message = f"policies must be a mapping of names to policies, got {policies!r}"
        raise TypeError(message)
    if not policies:
        message = "replay needs a policy to play"
        raise ValueError(message)
    return [played(name, policy) for name, policy in policies.items()]
