"""The names of a registry's policies: their form, whether services have such methods, and whether calls match them.

What is misspelt guards nothing, and nothing fails. So a name that no method can have is an error where the registry is
made; `check` compares all names with the services' own descriptors or stubs, in a test; and a name that a call matches
almost, but not quite, is warned of once.

Descriptors and stubs are known by what they have: the core imports neither protobuf nor gRPC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, cast

from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import printable, warn
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._core.spelling import nearest
from grpc_breaker._core.target import at_target, check_target, split_target

_NAME: Final = re.compile(r"/?([^\s/]+)(?:/([^\s/]+))?")
_CONFIGURABLE: Final = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*(/[A-Za-z_][\w-]*)?", re.ASCII)
_MOST_SEEN: Final = 1000
"""Methods remembered that were compared with the names of the policies."""


def split_method(name: str) -> tuple[str, str]:
    """Split "pkg.Service/Method" or "pkg.Service", with or without a leading slash; the method may be empty.

    Raises:
        ValueError: The name has another form.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        message = f"a method name must look like 'pkg.Service/Method' or 'pkg.Service', got {name!r}"
        raise ValueError(message)
    return match[1], match[2] or ""


def split_key(key: object) -> tuple[str, str]:
    """The name and the target of a key of a registry; the target may be empty.

    Raises:
        TypeError: The key is neither a string nor a pair of a string and a target.
        ValueError: The target is none.
    """
    name, target = key, ""
    if isinstance(key, tuple) and len(cast("tuple[object, ...]", key)) == 2:
        name, given = cast("tuple[object, object]", key)
        target = check_target(given)
    elif isinstance(key, str):
        name, target = split_target(key)
    if not isinstance(name, str):
        message = f"a method name must be a string like 'pkg.Service/Method', got {name!r}"
        raise TypeError(message)
    return name, target


def checked_policies(
    policies: Mapping[Any, BreakerPolicy | MethodPolicy] | None, default: MethodPolicy | None
) -> dict[str, MethodPolicy]:
    """The policies of a registry by the names they are found under.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A name that is no method or service name, one given twice, or a group with two policies.
    """
    if policies is not None and not isinstance(policies, Mapping):
        allowed = "a mapping of method name to BreakerPolicy or MethodPolicy"
        for_all = isinstance(policies, BreakerPolicy | MethodPolicy)
        hint = "; give a policy for every method as default" if for_all else ""
        message = f"BreakerRegistry policies must be {allowed}, got {policies!r}{hint}"
        raise TypeError(message)
    checked: dict[str, MethodPolicy] = {}
    for key, policy in (policies or {}).items():
        of, target = split_key(key)
        service, method = split_method(of)
        name = f"{service}/{method}" if method else service
        if not _CONFIGURABLE.fullmatch(name):
            message = f"a method name must look like 'pkg.Service/Method' or 'pkg.Service', no wildcards, got {key!r}"
            raise ValueError(message)
        name = at_target(name, target)
        if not isinstance(policy, BreakerPolicy | MethodPolicy):
            message = f"BreakerRegistry policy for {name!r} must be a BreakerPolicy or a MethodPolicy, got {policy!r}"
            raise TypeError(message)
        if name in checked:
            message = f"BreakerRegistry has two policies for {name!r}, written in two ways"
            raise ValueError(message)
        checked[name] = method_policy(policy)
    groups: dict[str, tuple[Any, ...]] = {}
    for wanted in [*checked.values(), *([default] if default else [])]:
        group, shared = wanted.breaker_policy.group, breaker_part(wanted)
        if group and groups.setdefault(group, shared) != shared:
            message = f"BreakerRegistry group {group!r} has two different policies; methods share one breaker"
            raise ValueError(message)
    return checked


def method_policy(policy: BreakerPolicy | MethodPolicy) -> MethodPolicy:
    """The policy itself, or that of a method with a breaker and nothing else."""
    return policy if isinstance(policy, MethodPolicy) else MethodPolicy(breaker=policy)


def breaker_part(policy: MethodPolicy) -> tuple[Any, ...]:
    """All that a breaker does of a policy, its limits included; methods of one group must agree in it."""
    return policy.breaker, policy.max_concurrent_calls, policy.bulkhead_streams, policy.rate_limit, policy.throttle


def check_names(policies: Iterable[str], described: Iterable[object]) -> None:
    """Check that services have the methods that policies are for.

    Raises:
        TypeError: Something that describes no services.
        ValueError: A name that no service and no method has.
    """
    known = {name for it in described for name, _ in _described_by(it)}
    unknown: list[str] = []
    for policy in policies:
        name = split_target(policy)[0]
        if name not in known:
            near = nearest(name, sorted(known))
            unknown.append(f"{policy!r} (did you mean {near!r}?)" if near else repr(policy))
    if unknown:
        message = f"no service or method has the name of these policies: {', '.join(unknown)}"
        raise ValueError(message)


def streams_of(described: Iterable[object], streams: Callable[[Any], bool]) -> frozenset[str]:
    """The methods with a stream of requests or answers, which `streams` tells of a method's descriptor.

    Raises:
        TypeError: Something that describes no services.
    """
    return frozenset(
        name
        for it in described
        for name, method in _described_by(it)
        if (method if isinstance(method, bool) else method is not None and streams(method))
    )


def _described_by(described: Any) -> Iterator[tuple[str, Any]]:
    """The services and methods that a module, a file's descriptor or a service's describes, or that a stub calls; with
    each method its descriptor or, of a stub's, whether it streams.
    """
    descriptor = getattr(described, "DESCRIPTOR", described)
    services = getattr(descriptor, "services_by_name", None)
    if services is None and not hasattr(descriptor, "methods_by_name"):
        called = _called_by(described if isinstance(described, type) else type(described))
        if not called:
            message = (
                "services are described by modules that protoc generated, such as pricing_pb2 (not pricing_pb2_grpc), "
                f"descriptors of files or services, or stubs, got {described!r}"
            )
            raise TypeError(message)
        yield from called.items()
        return
    for service in [descriptor] if services is None else services.values():
        yield service.full_name, None
        for name, method in service.methods_by_name.items():
            yield f"{service.full_name}/{name}", method


def _called_by(stub: type[Any]) -> dict[str, bool]:
    """The services and methods that the class of a stub asks its channel for, and whether each streams; none where it
    is no stub.
    """
    channel = _Channel()
    try:
        stub(channel)
    except Exception as error:  # whatever a class that is no stub makes of a channel
        if passes_through(error):
            raise
        return {}
    return channel.names


class _Channel:
    """What a stub takes for a channel: it notes which methods it is asked for."""

    def __init__(self) -> None:
        self.names: dict[str, bool] = {}

    def _note(self, method: str, streams: bool) -> None:
        name = method.removeprefix("/")
        self.names.update({name: streams, name.rpartition("/")[0]: False})

    def unary_unary(self, method: str, *_: object, **__: object) -> None:
        """Note a method with one request and one answer."""
        self._note(method, False)

    def unary_stream(self, method: str, *_: object, **__: object) -> None:
        """Note a method that streams."""
        self._note(method, True)

    stream_unary = stream_stream = unary_stream


class UnmatchedNames:
    """Names of policies, without targets, that no call has matched yet. One that a call matches almost is warned of,
    once.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._all = frozenset(split_target(name)[0] for name in names)
        self._names = set(self._all)
        self._seen: set[str] = set()

    def note(self, method: str) -> None:
        """Compare a method that is called, and has not been called lately, with the names of the policies."""
        if not self._names or method in self._seen:
            return
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen.add(method)
        service = method.rpartition("/")[0]
        self._names.difference_update((method, service))
        if method in self._all:
            return
        for name in [it for it in self._names.copy() if _almost(it, method, service)]:
            self._names.discard(name)
            warn(
                "no call has used the name of the policy for %s, but %s was called, which has no policy of its own; "
                "is the name misspelt?",
                name,
                printable(method),
            )


def _almost(name: str, method: str, service: str) -> bool:
    """Whether a policy's name is almost a method's: misspelt, with a dot for the slash, or that of its package."""
    if name.lower() in {method.lower(), service.lower()}:
        return True
    of, slash, short = name.rpartition("/")
    if not slash:
        return name == method.replace("/", ".") or service.startswith(f"{name}.")
    return of == service and nearest(short.lower(), [method.rpartition("/")[2].lower()], 0.8) != ""
