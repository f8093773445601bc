"""The checks of single values: what a field of a policy may be, said once for all the classes that have fields.

A check is a function of one value. It returns the value as it is kept, such as a float for an integer number of
seconds, or raises `BadValueError`, which says what is allowed and not where the value stood. Who knows the place makes
an error of it: `check_fields` for the dataclasses ("Class.field must be …, got …"), the reader of a service config for
a document ("$.methodConfig[0]… must be …, got …"). So both say the same of the same value.

Status names stand here as text, the seventeen of gRPC's own list: enough to catch a typing error without knowing gRPC.
`tests/unit/test_rpc.py` holds the list to `grpc.StatusCode`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from grpc_breaker._core.spelling import nearest

STATUS_NAMES: Final = frozenset(
    {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    }
)

Check = Callable[[Any], Any]
"""Returns the value as it is kept, or raises `BadValueError`."""


class BadValueError(Exception):
    """A value that is not allowed where it stood."""

    def __init__(self, allowed: str, kind: type[TypeError | ValueError], near: str = "") -> None:
        """Say what is wrong.

        Args:
            allowed: What the value must be.
            kind: `TypeError` for a value of the wrong kind, `ValueError` for one out of range.
            near: The name that was probably meant.
        """
        super().__init__(allowed)
        self.allowed = allowed
        self.kind = kind
        self.near = near

    @property
    def hint(self) -> str:
        """The end of an error in Python."""
        return f"; did you mean {self.near!r}?" if self.near else ""


def check_fields(owner: object, checks: Mapping[str, Check]) -> None:
    """Check fields of a frozen dataclass, in the order of `checks`, and keep what the checks return.

    Raises:
        TypeError: A value of the wrong kind.
        ValueError: A value out of range.
    """
    for name, check in checks.items():
        value = getattr(owner, name)
        try:
            kept = check(value)
        except BadValueError as bad:
            raise bad.kind(complaint(owner, name, bad.allowed) + bad.hint) from None
        object.__setattr__(owner, name, kept)


def complaint(owner: object, name: str, allowed: str) -> str:
    """The words of an error about one field."""
    return f"{type(owner).__name__}.{name} must be {allowed}, got {getattr(owner, name)!r}"


def optional(check: Check) -> Check:
    """The same check, for a field that may also be `None`."""

    def checked(value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(value)
        except BadValueError as bad:
            bad.allowed += ", or None"
            raise

    return checked


def count(least: int = 1, most: int | None = None) -> Check:
    """A check for an integer in a range."""
    allowed = f"an integer, {least} or more" if most is None else f"an integer from {least} to {most}"

    def checked(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValueError(allowed, TypeError)
        if value < least or (most is not None and value > most):
            raise BadValueError(allowed, ValueError)
        return value

    return checked


def number(allowed: str, *, low: float, high: float = math.inf, above_low: bool = False) -> Check:
    """A check for a finite number in a range; it is kept as a float."""

    def checked(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValueError(allowed, TypeError)
        try:
            as_float = float(value)
        except OverflowError:  # an integer beyond every float
            as_float = math.inf
        if not math.isfinite(as_float) or not low <= as_float <= high or (above_low and as_float == low):
            raise BadValueError(allowed, ValueError)
        return as_float

    return checked


seconds: Final = number("a number of seconds from 0.000001 to 1e9", low=1e-6, high=1e9)
share: Final = number("a number above 0 and up to 1", low=0.0, high=1.0, above_low=True)


def flag(value: Any) -> bool:
    """A check for True or False."""
    if not isinstance(value, bool):
        allowed = "True or False"
        raise BadValueError(allowed, TypeError)
    return value


def instance_of(kind: type[Any]) -> Check:
    """A check for an object of a class."""
    allowed = f"a {kind.__name__}"

    def checked(value: Any) -> Any:
        if not isinstance(value, kind):
            raise BadValueError(allowed, TypeError)
        return value

    return checked


def status(value: Any) -> str:
    """A check for a gRPC status, given as a code or by its name; the name is kept."""
    name = value if isinstance(value, str) else getattr(value, "name", None)
    allowed = "a gRPC status such as NOT_FOUND, or its name"
    if not isinstance(name, str):
        raise BadValueError(allowed, TypeError)
    if name not in STATUS_NAMES:
        raise BadValueError(allowed, ValueError, nearest(name.upper(), sorted(STATUS_NAMES)))
    return name


def status_of_failure(value: Any) -> str:
    """A check for a gRPC status other than OK."""
    name = status(value)
    if name == "OK":
        allowed = "a status other than OK"
        raise BadValueError(allowed, ValueError)
    return name


def several(check: Check, allowed: str) -> Check:
    """A check for at least one value, each as `check` wants it and none twice; they are kept as a tuple."""

    def checked(values: Any) -> tuple[Any, ...]:
        if not _are_several(values):
            raise BadValueError(allowed, TypeError)
        kept: list[Any] = []
        for value in values:
            try:
                kept.append(check(value))
            except BadValueError as bad:
                bad.allowed = allowed
                raise
        if not kept or len(set(kept)) < len(kept):
            raise BadValueError(allowed, ValueError)
        return tuple(kept)

    return checked


def _are_several(values: object) -> bool:
    return isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping)
