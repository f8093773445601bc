"""What a caller gets instead of an error: the last good answer, what a function returns, or a constant.

These classes only say what is wanted, and are checked when they are made; the adapters do it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final

from grpc_breaker._core.callables import is_generator_function, name_of
from grpc_breaker._core.checks import (
    BadValueError,
    Check,
    check_fields,
    count,
    instance_of,
    optional,
    seconds,
    several,
    status_of_failure,
)
from grpc_breaker._core.spelling import names_nearest_field

REFUSED: Final = "refused"
"""In `Fallback.when`: a call that was refused here and never sent."""

_METADATA_KEY: Final = re.compile(r"[0-9a-z_.-]+", re.ASCII)


class Unset(Enum):
    """The class of what stands for a constant that was not given: `None` may be one."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "<unset>"


def _metadata_key(key: Any) -> str:
    """A check for a key of a call's metadata, kept in lower case, as gRPC sends it."""
    allowed = "a metadata key"
    if not isinstance(key, str):
        raise BadValueError(allowed, TypeError)
    if not _METADATA_KEY.fullmatch(key.lower()):
        raise BadValueError(allowed, ValueError)
    return key.lower()


_metadata_keys: Final = several(_metadata_key, "metadata keys such as 'authorization', none of them twice")


def _no_or_some_metadata_keys(keys: Any) -> Any:
    return () if isinstance(keys, tuple | list) and not keys else _metadata_keys(keys)


@names_nearest_field
@dataclass(frozen=True, kw_only=True, slots=True)
class LastGood:
    """Which answers are remembered, to be given again instead of an error.

    An answer is found again by its method, the request and the metadata that `key_metadata` names. Immutable, and safe
    to share between methods and threads.

    Attributes:
        max_age: An answer older than this is given no more, in seconds from 0.000001 to 1e9. Default 300.
        max_entries: Answers remembered for each method, an integer from 1; above it the one that was used longest ago
            is forgotten. Default 1000.
        max_bytes: What these answers may take together in each method, serialised, in bytes from 1. Default
            16,777,216 (16 MiB).
        key_metadata: Keys of the caller's metadata whose values belong to the question, because the answer depends on
            them, such as "authorization" or a tenant's. Kept in lower case, as gRPC sends them. The answer to a call
            with credentials of its own is remembered only if the call has one of these keys, and its call credentials
            add none of them. Default: none.

    Raises:
        TypeError: A value of the wrong kind, or a field that there is not: the error names the nearest.
        ValueError: A value out of range.
    """

    max_age: float = 300.0
    max_entries: int = 1000
    max_bytes: int = 16 * 1024 * 1024
    key_metadata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, LAST_GOOD_CHECKS)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        plain = {it.name: getattr(self, it.name) for it in fields(self)}
        plain["key_metadata"] = list(self.key_metadata)
        return plain


LAST_GOOD_CHECKS: Final[dict[str, Check]] = {
    "max_age": seconds,
    "max_entries": count(),
    "max_bytes": count(),
    "key_metadata": _no_or_some_metadata_keys,
}
"""The checks of the fields, each alone."""


def _function(function: Any) -> Any:
    """A check for a function that makes an answer."""
    if not callable(function) or is_generator_function(function):
        allowed = "a callable that is no generator function"
        raise BadValueError(allowed, TypeError)
    return function


def _cause(cause: Any) -> str:
    """A check for one of the words of `when`."""
    return REFUSED if cause == REFUSED else status_of_failure(cause)


@names_nearest_field
@dataclass(frozen=True, kw_only=True, slots=True)
class Fallback:
    """What a caller gets instead of an error, and of which errors.

    At least one of `last_good`, `function` and `constant` is given. They are tried in this order. A breaker counts the
    error and never the fallback. Immutable, and safe to share between methods and threads.

    Attributes:
        last_good: Give the last good answer to the same request again, if there is one. Default `None`: no.
        function: Called with the request (`None` for a method of one answer whose requests are a stream) and the error
            (`grpc.RpcError`); returns the response, or `None` if it has none; of a method that streams its answers, an
            iterable of them. May be a coroutine function where the channel is one of asyncio. One that raises leaves
            the caller the original error, and is logged once. Default `None`: none.
        constant: The response, the same object each time; `None` is one, too. Default: not given.
        when: Of which errors: "refused", for calls that were refused here and never sent, and statuses, as codes or
            by their names. Default: "refused", UNAVAILABLE, DEADLINE_EXCEEDED.

    Raises:
        TypeError: A value of the wrong kind, or a field that there is not: the error names the nearest.
        ValueError: A value out of range, or nothing to give.
    """

    last_good: LastGood | None = None
    function: Callable[[Any, Any], Any] | None = None
    constant: Any = field(default=Unset.UNSET, hash=False)  # messages of protobuf have no hash
    when: tuple[str, ...] = (REFUSED, "UNAVAILABLE", "DEADLINE_EXCEEDED")

    def __post_init__(self) -> None:
        """Check every field, then what they mean together."""
        check_fields(self, FALLBACK_CHECKS)
        if self.last_good is None and self.function is None and not self.has_constant:
            message = "Fallback has nothing to give; set at least one of last_good, function, constant"
            raise ValueError(message)

    @property
    def has_constant(self) -> bool:
        """Whether a constant was given."""
        return self.constant is not Unset.UNSET

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON; a function by its name, and of a constant its type alone."""
        return {
            "last_good": None if self.last_good is None else self.last_good.as_dict(),
            "function": None if self.function is None else name_of(self.function),
            "constant": type(self.constant).__qualname__ if self.has_constant else None,
            "when": list(self.when),
        }


FALLBACK_CHECKS: Final[dict[str, Check]] = {
    "last_good": optional(instance_of(LastGood)),
    "function": optional(_function),
    "when": several(_cause, "'refused' and gRPC statuses other than OK, at least one and none twice"),
}
"""The checks of the fields, each alone; a constant may be anything."""
