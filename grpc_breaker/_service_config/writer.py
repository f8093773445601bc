"""From policies to the document: what `read` makes the same policies of.

Only what differs from a default is written, except where gRPC demands every key. Methods with the same policy share an
entry. A document has names for functions, no functions, and nanoseconds: what cannot be said in it is an error, and a
time is rounded to its nanosecond.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, cast

from grpc_breaker._core.callables import name_of
from grpc_breaker._core.fallback import Fallback, LastGood
from grpc_breaker._core.method_policy import MethodPolicy, RetryThrottling
from grpc_breaker._core.policy import CONDITIONS, BreakerPolicy
from grpc_breaker._core.target import split_target
from grpc_breaker._service_config.keys import (
    CIRCUIT_BREAKER,
    FALLBACK,
    LAST_GOOD,
    PARTS,
    READ,
    RETRY_THROTTLING,
    Section,
    as_duration,
    camel,
)
from grpc_breaker._service_config.problems import Problems, ServiceConfigError, shown
from grpc_breaker._service_config.reader import DEFAULT, check_functions
from grpc_breaker._service_config.source import TEXT

_CONDITIONS: Final = tuple(camel(it) for it in CONDITIONS)
"""What a policy has when it names none of them depends on all: they are written together, or not at all."""


def write(
    policies: Mapping[str, MethodPolicy | BreakerPolicy],
    default: MethodPolicy | BreakerPolicy | None,
    retry_throttling: RetryThrottling | None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    rest: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document that says these policies.

    Args:
        policies: By "pkg.Service/Method" or "pkg.Service".
        default: For every other method; `None`: no entry for `{}`.
        retry_throttling: When retries stop; `None`: never.
        functions: The names of functions; a function of a policy must be among them.
        rest: A document whose keys that are gRPC's alone are written, too: those at the top, and those of each name.

    Raises:
        TypeError: `functions` is no mapping of names to callables.
        ServiceConfigError: A policy has what cannot be said in a document.
    """
    if functions is not None:
        check_functions(functions)
    writer = _Writer(functions or {})
    document = writer.write(policies, default, retry_throttling, rest or {})
    if writer.problems.found:
        raise ServiceConfigError(TEXT, writer.problems.found)
    return document


def names_of(entry: Mapping[str, Any]) -> list[str]:
    """The names of an entry that was read, as policies have them."""
    given = cast("list[dict[str, Any]]", entry["name"])
    return [f"{it['service']}/{it['method']}" if it.get("method") else it.get("service") or DEFAULT for it in given]


def as_name(name: str) -> dict[str, str]:
    """A name as the document has it."""
    service, _, method = name.partition("/")
    return {key: it for key, it in (("service", service), ("method", method)) if it}


class _Writer:
    """The writing of one document."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.problems = Problems()
        self._functions = functions

    def write(
        self,
        policies: Mapping[str, MethodPolicy | BreakerPolicy],
        default: MethodPolicy | BreakerPolicy | None,
        retry_throttling: RetryThrottling | None,
        rest: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The document, as far as it can be written."""
        grpcs = {
            name: {key: it for key, it in entry.items() if key not in READ and key != "name"}
            for entry in rest.get("methodConfig", [])
            for name in names_of(entry)
        }
        entries: dict[str, dict[str, Any]] = {}
        for name, policy in [*policies.items(), *([(DEFAULT, default)] if default is not None else [])]:
            if split_target(name)[1]:
                self.problems.add(f"the policy of {shown(name)} is for one target, which has no name in a document")
                continue
            body = {**self._entry(name, policy), **grpcs.get(name, {})}
            entry = entries.setdefault(json.dumps(body, sort_keys=True), {"name": [], **body})
            entry["name"].append(as_name(name))
        document: dict[str, Any] = {"methodConfig": [*entries.values()]} if entries else {}
        if retry_throttling is not None:
            document["retryThrottling"] = self._all(retry_throttling, RETRY_THROTTLING)
        others = {key: it for key, it in rest.items() if key not in {"methodConfig", "retryThrottling"}}
        return {**document, **others}

    def _entry(self, name: str, policy: MethodPolicy | BreakerPolicy) -> dict[str, Any]:
        """What a policy says, without the name of its methods."""
        given = MethodPolicy(breaker=policy) if isinstance(policy, BreakerPolicy) else policy
        entry: dict[str, Any] = {}
        if given.timeout is not None:
            entry["timeout"] = as_duration(given.timeout)
        if given.attempt_timeout is not None:
            entry["attemptTimeout"] = as_duration(given.attempt_timeout)
        for key, (field, section) in PARTS.items():
            part = getattr(given, field)
            if isinstance(part, BreakerPolicy):
                entry[key] = self._breaker(name, part)
            elif isinstance(part, Fallback):
                entry[key] = self._fallback(name, part)
            elif part is not None:
                entry[key] = self._all(part, section)
        if given.max_concurrent_calls is not None:
            entry["bulkhead"] = {"maxConcurrentCalls": given.max_concurrent_calls}
            if given.bulkhead_streams:
                entry["bulkhead"]["streams"] = True
        return entry

    def _breaker(self, name: str, policy: BreakerPolicy) -> dict[str, Any]:
        """A breaker's policy, with its trip conditions where they are not those of a policy that names none."""
        written = self._all(policy, CIRCUIT_BREAKER)
        usual = self._all(BreakerPolicy(), CIRCUIT_BREAKER)
        if all(written[key] == usual[key] for key in _CONDITIONS):
            named: set[str] = set()
        else:
            named = {key for key in _CONDITIONS if written[key] is not None}
        kept = {key: it for key, it in written.items() if key in named or (key not in _CONDITIONS and it != usual[key])}
        if policy.verdicts is not None:
            kept["verdicts"] = {status: str(outcome) for status, outcome in policy.verdicts.items()}
        if policy.classify is not None:
            kept["classify"] = self._name(name, policy.classify)
        return kept

    def _fallback(self, name: str, fallback: Fallback) -> dict[str, Any]:
        written: dict[str, Any] = {}
        if fallback.last_good is not None:
            written["lastGood"] = self._differing(fallback.last_good, LAST_GOOD)
        if fallback.function is not None:
            written["function"] = self._name(name, fallback.function)
        if fallback.has_constant:
            self.problems.add(
                f"the fallback of {shown(name)} has a constant, which no document can have; give a function"
            )
        when = self._all(fallback, FALLBACK)["when"]
        return written if when == list(_default_of(Fallback, "when")) else {**written, "when": when}

    def _differing(self, part: LastGood, section: Section) -> dict[str, Any]:
        """The keys whose values are not the defaults."""
        usual = self._all(section.makes(), section)
        return {key: it for key, it in self._all(part, section).items() if it != usual[key]}

    def _all(self, part: Any, section: Section) -> dict[str, Any]:
        """Every key of a part."""
        return {key: _written(key, getattr(part, name), section) for key, name in section.fields.items()}

    def _name(self, of: str, function: Callable[..., Any]) -> str:
        """The name of a function."""
        for name, it in self._functions.items():
            if it == function:
                return name
        self.problems.add(
            f"the policy of {shown(of)} has the function {name_of(function)}, which has no name in functions"
        )
        return ""


def _written(key: str, value: Any, section: Section) -> Any:
    """A field's value as the document has it."""
    if isinstance(value, float):
        if key in section.durations:
            return as_duration(value)
        return int(value) if value.is_integer() else value
    return [*cast("tuple[object, ...]", value)] if isinstance(value, tuple) else value


def _default_of(owner: type[Any], name: str) -> Any:
    (default,) = (it.default for it in fields(owner) if it.name == name)
    return default
