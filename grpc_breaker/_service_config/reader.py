"""From a document to policies, or to one error that says everything that is wrong.

Names match as gRPC matches them: the entry for a method beats the one for its service beats the one for `{}`, and the
entry that matches best counts as a whole: nothing is merged. What gRPC passes over in silence, a name that no call can
have or a key that is misspelt, is an error here.

Each value is checked by the check of the field that it becomes, so the document and Python allow the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Final, cast

from grpc_breaker._core.checks import BadValueError
from grpc_breaker._core.fallback import LastGood
from grpc_breaker._core.method_policy import MethodPolicy, RetryThrottling
from grpc_breaker._core.names import breaker_part
from grpc_breaker._core.policy import verdict_key
from grpc_breaker._core.state import Outcome
from grpc_breaker._service_config.keys import (
    BULKHEAD,
    FALLBACK,
    GRPC_CHECKS,
    LAST_GOOD,
    MEANT,
    METHOD_KEYS,
    PARTS,
    RETRY_THROTTLING,
    TIMEOUTS,
    TOP_KEYS,
    Section,
)
from grpc_breaker._service_config.problems import Problems, ServiceConfigError, at_key, shown
from grpc_breaker._service_config.source import load

DEFAULT: Final = ""
"""The name that `{}` has here."""

_SERVICE: Final = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", re.ASCII)
_METHOD: Final = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)
_LONGEST_NAME: Final = 1000
"""Characters of the name of a service, or of a method."""

_VERSION: Final = re.compile(r"(.*\.)?v\d+((alpha|beta)\d*)?")
"""How the names of packages end, and those of services do not."""

_OUTLIER_DETECTION: Final = "outlier_detection_experimental"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceConfig:
    """What a document says.

    Attributes:
        policies: By "pkg.Service/Method" or "pkg.Service".
        default: For every other method; `None` where the document has no entry for `{}`.
        retry_throttling: When retries stop, for all methods together; `None`: never.
        document: The document itself, with the keys that are gRPC's alone.
    """

    policies: Mapping[str, MethodPolicy]
    default: MethodPolicy | None = None
    retry_throttling: RetryThrottling | None = None
    document: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)


def read(
    source: str | PathLike[str] | Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] | None
) -> ServiceConfig:
    """What a document says.

    Args:
        source: A path, JSON text that begins with "{", or the document itself.
        functions: What the document may name as `fallback.function` and `circuitBreaker.classify`, by these names.
            `None`: any name is good, and what it stands for is unknown; for a check of the document alone.

    Raises:
        TypeError: An argument of the wrong kind.
        ServiceConfigError: The document cannot be read, or something in it is wrong; it says all that is.
    """
    if functions is not None:
        check_functions(functions)
    problems = Problems()
    name, document = load(source, problems)
    reader = _Reader(functions, problems)
    config = reader.read(document)
    if problems.found:
        raise ServiceConfigError(name, problems.found)
    return config


def check_functions(functions: object) -> None:
    """Check that named functions are that.

    Raises:
        TypeError: They are not.
    """
    given = cast("Mapping[object, object]", functions).items() if isinstance(functions, Mapping) else [(0, 0)]
    if not all(isinstance(name, str) and callable(function) for name, function in given):
        message = f"functions must be a mapping of names to callables, got {functions!r}"
        raise TypeError(message)


def _known_elsewhere(*_: object) -> None:
    """Stands for a function whose name alone is known."""


class _Reader:
    """The reading of one document."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None, problems: Problems) -> None:
        self.problems = problems
        self._functions = functions
        self._places: dict[str, str] = {}
        """Where each name is."""
        self._groups: dict[str, tuple[str, MethodPolicy]] = {}
        """The first policy of each group, and where it is."""
        self._special: dict[str, Callable[[str, Any], Any]] = {
            "verdicts": self._verdicts,
            "classify": self._function,
            "function": self._function,
            "lastGood": self._last_good,
        }

    def read(self, document: Mapping[str, Any]) -> ServiceConfig:
        """What the document says, as far as it is right."""
        self._misspelt("$", document, TOP_KEYS)
        policies: dict[str, MethodPolicy] = {}
        entries: Any = document.get("methodConfig", [])
        if isinstance(entries, list):
            for number, entry in enumerate(cast("list[object]", entries)):
                self._entry(f"$.methodConfig[{number}]", entry, policies)
        else:
            self.problems.wrong("$.methodConfig", "a list of objects", entries)
        self._packages()
        throttling = None
        if document.get("retryThrottling") is not None:
            throttling = self._object("$.retryThrottling", document["retryThrottling"], RETRY_THROTTLING)
        self._of_channels(document)
        default = policies.pop(DEFAULT, None)
        return ServiceConfig(policies=policies, default=default, retry_throttling=throttling, document=document)

    # ── Entries and names ─────────────────────────────────────────────────────────────────────────────────────────────

    def _entry(self, path: str, entry: Any, policies: dict[str, MethodPolicy]) -> None:
        """Read one entry of `methodConfig`."""
        if not isinstance(entry, dict):
            self.problems.wrong(path, "an object", entry)
            return
        given = cast("dict[str, Any]", entry)
        names = self._names(f"{path}.name", given)
        self._misspelt(path, given, METHOD_KEYS)
        before = self.problems.met
        fields: dict[str, Any] = {"breaker": None}
        for key, value in given.items():
            at = f"{path}.{key}"
            if key in GRPC_CHECKS:
                self._checked(at, value, GRPC_CHECKS[key])
            elif key in TIMEOUTS:
                name, check = TIMEOUTS[key]
                fields[name] = self._checked(at, value, check)
            elif key in PARTS and value is not None:
                name, section = PARTS[key]
                fields[name] = self._object(at, value, section)
            elif key == "bulkhead" and value is not None:
                fields.update(self._fields(at, value, BULKHEAD) or {})
        if self.problems.met > before:
            return
        policy = MethodPolicy(**fields)
        self._group(f"{path}.circuitBreaker", policy)
        policies.update(dict.fromkeys(names, policy))

    def _names(self, path: str, entry: Mapping[str, Any]) -> list[str]:
        """The names that an entry is for."""
        given: Any = entry.get("name")
        if not isinstance(given, list) or not given:
            self.problems.wrong(path, 'a list of objects such as {"service": "pkg.Service", "method": "Method"}', given)
            return []
        names: list[str] = []
        for number, it in enumerate(cast("list[object]", given)):
            at = f"{path}[{number}]"
            name = self._name(at, it)
            if name is None:
                continue
            if name in self._places:
                self.problems.add(f"{at}: {shown(name) if name else '{}'} is at {self._places[name]}, too")
                continue
            self._places[name] = at
            names.append(name)
        return names

    def _name(self, path: str, given: Any) -> str | None:
        """One name, as policies have it; `None` where it is wrong."""
        if not isinstance(given, dict):
            self.problems.wrong(path, 'an object such as {"service": "pkg.Service", "method": "Method"}', given)
            return None
        name = cast("dict[str, Any]", given)
        before = self.problems.met
        for key in name:
            if key not in {"service", "method"}:
                self.problems.unknown(path, "key", key, ("service", "method"))
        service, method = (name.get(key) or "" for key in ("service", "method"))  # as gRPC: "" and null are none
        if service and not _is_name(service, _SERVICE):
            self.problems.wrong(
                f"{path}.service", "the name of a service such as pkg.Service", service, hint=_why(service)
            )
        if method and not _is_name(method, _METHOD):
            self.problems.wrong(f"{path}.method", "the name of a method without its service", method)
        if method and not service:
            self.problems.add(f"{path} must have the service of its method, got {shown(name)}")
        if self.problems.met > before:
            return None
        return f"{service}/{method}" if method else service

    def _packages(self) -> None:
        """Find names of packages where those of services should be: gRPC knows no policies for packages."""
        services = {name.partition("/")[0] for name in self._places}
        packages = {name for it in services for name in _packages_of(it) if name in services}
        for name, path in self._places.items():
            service = name.partition("/")[0]
            if service in packages or _VERSION.fullmatch(service):
                self.problems.wrong(f"{path}.service", "the name of a service, not of a package", service)

    def _group(self, path: str, policy: MethodPolicy) -> None:
        """Methods of a group share a breaker, so their policies must be the same."""
        group = policy.breaker_policy.group
        if group is None:
            return
        first, other = self._groups.setdefault(group, (path, policy))
        if breaker_part(other) != breaker_part(policy):
            self.problems.add(
                f"{path}.group: {shown(group)} has another policy at {first}; methods of a group share one breaker, "
                "with its bulkhead, rateLimit and throttle"
            )

    # ── Objects and values ────────────────────────────────────────────────────────────────────────────────────────────

    def _object(self, path: str, value: Any, section: Section) -> Any:
        """What an object of the document says; `None` where anything is wrong with it."""
        before = self.problems.met
        fields = self._fields(path, value, section)
        if fields is not None and section is FALLBACK and not _gives(value):
            self.problems.add(f'{path} must have "lastGood" or "function", got {shown(value)}')
        if fields is None or self.problems.met > before:
            return None
        try:
            return section.makes(**fields)
        except (TypeError, ValueError) as error:  # values that are good alone, and make no sense together
            self.problems.add(_in_words_of_the_document(str(error), path, section))
            return None

    def _fields(self, path: str, value: Any, section: Section) -> dict[str, Any] | None:
        """The fields that an object says, each checked alone; `None` where it is no object."""
        if not isinstance(value, dict):
            self.problems.wrong(path, "an object", value)
            return None
        given = cast("dict[str, Any]", value)
        fields: dict[str, Any] = {}
        for key, it in given.items():
            at = at_key(path, key)
            if key not in section.fields:
                if section.ours or self.problems.nearest(key, section.fields):
                    self.problems.unknown(path, "key", key, section.fields)
                continue
            if key in self._special and it is not None:
                it = self._special[key](at, it)  # noqa: PLW2901 - what the value says
            if key in section.checks:
                it = self._checked(at, it, section.checks[key], given[key])  # noqa: PLW2901 - as the field has it
            fields[section.fields[key]] = it
        for key in section.required:
            if key not in given:
                self.problems.add(f"{path} must have the key {shown(key)}, got {shown(given)}")
        return fields

    def _checked(self, path: str, value: Any, check: Callable[[Any], Any], written: Any = None) -> Any:
        """A value as its field has it; a value that is wrong is shown as it is written."""
        try:
            return check(value)
        except BadValueError as bad:
            self.problems.wrong(path, bad.allowed, value if written is None else written, bad.near)
            return None

    def _verdicts(self, path: str, value: Any) -> dict[str, Outcome] | None:
        if not isinstance(value, dict):
            self.problems.wrong(path, "an object of statuses and outcomes", value)
            return None
        verdicts: dict[str, Outcome] = {}
        for key, outcome in cast("dict[str, Any]", value).items():
            at = at_key(path, key)
            try:
                verdict_key(key)
            except BadValueError as bad:
                self.problems.wrong(f"{path}: a key", bad.allowed, key, bad.near)
            try:
                verdicts[key] = Outcome(outcome)
            except ValueError:
                self.problems.wrong(at, '"success", "failure" or "ignored"', outcome)
        return verdicts

    def _function(self, path: str, value: Any) -> Any:
        """The function of a name."""
        if not isinstance(value, str) or not value:
            self.problems.wrong(path, "the name of a function, or null", value)
        elif self._functions is None:
            return _known_elsewhere
        elif value in self._functions:
            return self._functions[value]
        else:
            self.problems.unknown(path, "function", value, self._functions)
        return None

    def _last_good(self, path: str, value: Any) -> LastGood | None:
        made: LastGood | None = self._object(path, value, LAST_GOOD)
        return made

    # ── What is gRPC's own ────────────────────────────────────────────────────────────────────────────────────────────

    def _misspelt(self, path: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
        """Find keys that are almost those that are read, or belong elsewhere: all others pass through, as in gRPC."""
        for key in given:
            if key in known:
                continue
            near = MEANT.get(key, "")
            near = near if near in known else self.problems.nearest(key.replace("_", ""), known, 0.75)
            if near:
                self.problems.add(f"{path}: there is no key {shown(key)}; did you mean {shown(near)}?")

    def _of_channels(self, document: Mapping[str, Any]) -> None:
        """Find values of gRPC's keys with which every call of a channel would fail."""
        policy: Any = document.get("loadBalancingPolicy")
        if not isinstance(policy, str | None):
            self.problems.wrong("$.loadBalancingPolicy", "the name of a policy such as round_robin, or null", policy)
        health: Any = document.get("healthCheckConfig")
        if not isinstance(health, dict | None):
            self.problems.wrong("$.healthCheckConfig", "an object, or null", health)
        else:
            name = cast("dict[str, Any]", health or {}).get("serviceName")
            if not isinstance(name, str | None):
                self.problems.wrong("$.healthCheckConfig.serviceName", "text, or null", name)
        if "loadBalancingConfig" in document:
            self._balancing("$.loadBalancingConfig", document["loadBalancingConfig"])

    def _balancing(self, path: str, value: Any) -> None:
        """Policies that are none, and outlier detection without the policy that it watches over."""
        if not isinstance(value, list) or not value:
            self.problems.wrong(path, 'a list of policies such as [{"round_robin": {}}]', value)
            return
        for number, it in enumerate(cast("list[object]", value)):
            policy = cast("dict[str, Any]", it) if isinstance(it, dict) else {}
            if [type(config) for config in policy.values()] != [dict]:
                self.problems.wrong(f"{path}[{number}]", 'one policy such as {"round_robin": {}}', it)
                continue
            detection = policy.get(_OUTLIER_DETECTION)
            if detection is not None and "childPolicy" not in detection:
                where = f"{path}[{number}].{_OUTLIER_DETECTION}"
                allowed = 'an object with "childPolicy", such as [{"round_robin": {}}]'
                self.problems.wrong(where, allowed, detection)


def _gives(fallback: Mapping[str, Any]) -> bool:
    """Whether a fallback has anything to give."""
    return any(fallback.get(key) is not None for key in ("lastGood", "function"))


def _is_name(name: object, form: re.Pattern[str]) -> bool:
    return isinstance(name, str) and len(name) <= _LONGEST_NAME and form.fullmatch(name) is not None


def _why(service: object) -> str:
    """What may have been meant by a service's name that is none."""
    if not isinstance(service, str):
        return ""
    if len(service) > _LONGEST_NAME:
        return f"; a name has at most {_LONGEST_NAME} characters"
    plain = service.removeprefix("/")
    if _SERVICE.fullmatch(plain):
        return f"; without the slash: {shown(plain)}"
    of, _, method = plain.partition("/")
    if _SERVICE.fullmatch(of) and _METHOD.fullmatch(method):
        return f'; did you mean {{"service": {shown(of)}, "method": {shown(method)}}}?'
    return ""


def _packages_of(service: str) -> Iterator[str]:
    """The packages that a service is in."""
    return (service[: dot.start()] for dot in re.finditer(r"\.", service))


def _in_words_of_the_document(error: str, path: str, section: Section) -> str:
    """An error about fields, with the keys that stand for them."""
    words = error.replace(section.makes.__name__, path, 1)
    for key, name in section.fields.items():
        words = re.sub(rf"\b{name}\b", key, words)
    return words
