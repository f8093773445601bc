"""The words of the document, and which field of which class each is.

A key is the camelCase of its field, and its check is the field's; seconds are durations as gRPC writes them, "1.5s".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from grpc_breaker._core.checks import BadValueError, Check, count, flag
from grpc_breaker._core.fallback import FALLBACK_CHECKS, LAST_GOOD_CHECKS, Fallback, LastGood
from grpc_breaker._core.method_policy import (
    METHOD_CHECKS,
    RATE_LIMIT_CHECKS,
    RETRY_CHECKS,
    RETRY_THROTTLING_CHECKS,
    THROTTLE_CHECKS,
    MethodPolicy,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
    Throttle,
)
from grpc_breaker._core.policy import FIELD_CHECKS, BreakerPolicy

_DURATION: Final = re.compile(r"\d{1,12}(\.\d{1,9})?s", re.ASCII)

_DIGITS: Final = re.compile(r"\d{1,10}", re.ASCII)
_LARGEST_SIZE: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of object in the document.

    Attributes:
        makes: The class that it says the fields of.
        checks: The checks of the values of its keys; those that need more than the value are in the reader.
        fields: The field of each key.
        durations: The keys whose values are durations.
        required: The keys that must be there.
        ours: Whether the object is ours, so that a key that is unknown is an error; gRPC's may have keys to come.
    """

    makes: type[Any]
    checks: Mapping[str, Check]
    fields: Mapping[str, str]
    durations: frozenset[str]
    required: tuple[str, ...] = ()
    ours: bool = True


def camel(name: str) -> str:
    """The key of a field."""
    first, *others = name.split("_")
    return first + "".join(it.capitalize() for it in others)


def duration_of(text: Any) -> float:
    """The seconds that a duration says.

    Raises:
        BadValueError: It is none.
    """
    allowed = 'a duration such as "1.5s"'
    if not isinstance(text, str):
        raise BadValueError(allowed, TypeError)
    if not _DURATION.fullmatch(text):
        raise BadValueError(allowed, ValueError)
    return float(text.removesuffix("s"))


def as_duration(seconds: float) -> str:
    """Seconds as a duration, which has nanoseconds and nothing smaller."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _duration(check: Check) -> Check:
    """A check for a duration, whose seconds `check` checks."""

    def checked(value: Any) -> Any:
        seconds = None if value is None else duration_of(value)
        try:
            return check(seconds)
        except BadValueError as bad:
            bad.allowed = f'a duration such as "1.5s", {bad.allowed}'
            raise

    return checked


def _section(
    makes: type[Any],
    checks: Mapping[str, Check],
    durations: Iterable[str] = (),
    required: Iterable[str] = (),
    others: Iterable[str] = (),
    *,
    ours: bool = True,
) -> Section:
    """A section whose keys are the fields that have checks, and `others`."""
    lasting = frozenset(camel(it) for it in durations)
    keys = {camel(name): name for name in (*checks, *others)}
    by_key = {camel(name): _duration(it) if camel(name) in lasting else it for name, it in checks.items()}
    return Section(makes, by_key, keys, lasting, tuple(camel(it) for it in required), ours)


CIRCUIT_BREAKER: Final = _section(
    BreakerPolicy,
    FIELD_CHECKS,
    durations=(
        "slow_call_duration",
        "window_seconds",
        "reset_timeout",
        "max_reset_timeout",
        "probe_timeout",
        "probe_deadline",
        "hung_after",
        "ramp",
        "minimum_deadline",
    ),
    others=("verdicts",),
)
RETRY_POLICY: Final = _section(
    RetryPolicy, RETRY_CHECKS, durations=("initial_backoff", "max_backoff"), required=RETRY_CHECKS, ours=False
)
RETRY_THROTTLING: Final = _section(
    RetryThrottling, RETRY_THROTTLING_CHECKS, required=RETRY_THROTTLING_CHECKS, ours=False
)
RATE_LIMIT: Final = _section(RateLimit, RATE_LIMIT_CHECKS, required=("calls_per_second",))
THROTTLE: Final = _section(Throttle, THROTTLE_CHECKS, durations=("window",))
LAST_GOOD: Final = _section(LastGood, LAST_GOOD_CHECKS, durations=("max_age",))
FALLBACK: Final = _section(Fallback, FALLBACK_CHECKS)
BULKHEAD: Final = Section(
    MethodPolicy,
    {"maxConcurrentCalls": count(), "streams": flag},
    {"maxConcurrentCalls": "max_concurrent_calls", "streams": "bulkhead_streams"},
    frozenset(),
    ("maxConcurrentCalls",),
)

PARTS: Final[Mapping[str, tuple[str, Section]]] = {
    "retryPolicy": ("retry", RETRY_POLICY),
    "circuitBreaker": ("breaker", CIRCUIT_BREAKER),
    "rateLimit": ("rate_limit", RATE_LIMIT),
    "throttle": ("throttle", THROTTLE),
    "fallback": ("fallback", FALLBACK),
}
"""The objects of a `methodConfig` that are a field of `MethodPolicy`; "bulkhead" is two."""

TIMEOUTS: Final[Mapping[str, tuple[str, Check]]] = {
    "timeout": ("timeout", _duration(METHOD_CHECKS["timeout"])),
    "attemptTimeout": ("attempt_timeout", _duration(METHOD_CHECKS["attempt_timeout"])),
}

OURS: Final = frozenset({"attemptTimeout", "bulkhead", "circuitBreaker", "fallback", "rateLimit", "throttle"})
"""The keys of a `methodConfig` that gRPC does not know."""

READ: Final = OURS | {"timeout", "retryPolicy"}
"""The keys of a `methodConfig` that are policies here."""


def _size(value: Any) -> Any:
    """A check for a size in bytes, which gRPC takes as text, too."""
    allowed = "an integer from 0 to 4294967295"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadValueError(allowed, TypeError)
    if not _DIGITS.fullmatch(str(value)) or int(value) > _LARGEST_SIZE:
        raise BadValueError(allowed, ValueError)
    return value


GRPC_CHECKS: Final[Mapping[str, Check]] = {
    "waitForReady": flag,
    "maxRequestMessageBytes": _size,
    "maxResponseMessageBytes": _size,
}
"""gRPC's own keys of a `methodConfig` whose wrong values would fail every call of a channel."""

METHOD_KEYS: Final = frozenset({"name", "hedgingPolicy", *READ, *GRPC_CHECKS})
TOP_KEYS: Final = frozenset(
    {"methodConfig", "retryThrottling", "loadBalancingConfig", "loadBalancingPolicy", "healthCheckConfig"}
)
_INSIDE: Final = {"throttle": THROTTLE, "bulkhead": BULKHEAD} | {part: section for part, (_, section) in PARTS.items()}
"""The parts by their keys. The throttle is first: of two parts with a key of one name the later one is meant."""

MEANT: Final[Mapping[str, str]] = {
    **dict.fromkeys(READ, "methodConfig"),
    **{
        name: part
        for part, section in _INSIDE.items()
        for key, field in section.fields.items()
        if key != key.lower()  # a key of one word, such as "group", may be anybody's
        for name in (key, field)
    },
    "breaker": "circuitBreaker",
    "retry": "retryPolicy",
}
"""What was probably meant by a key that has no meaning where it stands: the object that it belongs in, or what a field
of `MethodPolicy` with another name is called in the document.
"""
