"""What a misspelt name probably means: the nearest of those that exist."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from typing import Any, Final, TypeVar

from grpc_breaker._core.other_names import FIELDS

C = TypeVar("C", bound=type[Any])

_known: Final[dict[str, list[str]]] = {}
"""The fields of each class that names the nearest, by the name of the class."""


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """The nearest of the names that exist; empty where none is near.

    Args:
        name: The misspelt name.
        known: Those that exist.
        alike: How alike two names must be, from 0 to 1. Default 0.6.
    """
    found = get_close_matches(name, known, n=1, cutoff=alike)
    return found[0] if found else ""


def nearest_field(name: str, known: Collection[str]) -> str:
    """The field that is probably meant: what other circuit breakers call by this name, else the nearest.

    Args:
        name: The name that no field has.
        known: The names of the fields.
    """
    ours = FIELDS.get(name, "")
    return ours if ours in known else nearest(name, known)


def names_nearest_field(owner: C) -> C:
    """Have a dataclass say which field was probably meant where it is made with one that it does not have.

    That is the nearest of its own, or the same name in another of these classes; where there is neither, all that it
    has. Python itself names the nearest from 3.13 on, and below that for attributes alone.
    """
    known = _known[owner.__name__] = [field.name for field in fields(owner) if field.init]
    owner.__init__ = _checking(owner.__init__, owner.__name__, known)
    return owner


def _checking(init: Callable[..., None], owner: str, known: list[str]) -> Callable[..., None]:
    @wraps(init)
    def __init__(self: object, *arguments: Any, **given: Any) -> None:  # noqa: N807 - the name in tracebacks
        for name in given:
            if name not in known:
                message = f"{owner} has no field {name!r}; {_meant(name, known)}"
                raise TypeError(message)
        init(self, *arguments, **given)

    return __init__


def _meant(name: str, known: list[str]) -> str:
    """What to write instead of a name that no field has."""
    near = nearest_field(name, known)
    hints = [f"did you mean {near!r}?"] if near else []
    elsewhere = [of for of, names in _known.items() if name in names]
    if elsewhere:
        hints.insert(0, f"it is a field of {' and '.join(elsewhere)}")
    return "; or ".join(hints) or f"its fields are {', '.join(known)}"
