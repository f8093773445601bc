"""What a misspelt name probably means: the nearest of those that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar

C = TypeVar("C", bound=type[Any])


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """The nearest of the names that exist; empty where none is near.

    Args:
        name: The misspelt name.
        known: Those that exist.
        alike: How alike two names must be, from 0 to 1. Default 0.6.
    """
    found = get_close_matches(name, known, n=1, cutoff=alike)
    return found[0] if found else ""


def names_nearest_field(owner: C) -> C:
    """Have a dataclass name the nearest field where it is made with one that it does not have.

    Python itself does so from 3.13 on, and below that for attributes alone.
    """
    known = [field.name for field in fields(owner) if field.init]
    owner.__init__ = _checking(owner.__init__, owner.__name__, known)
    return owner


def _checking(init: Callable[..., None], owner: str, known: list[str]) -> Callable[..., None]:
    @wraps(init)
    def __init__(self: object, *arguments: Any, **given: Any) -> None:  # noqa: N807 - the name in tracebacks
        for name in given:
            if name not in known:
                near = nearest(name, known)
                message = f"{owner} has no field {name!r}" + (f"; did you mean {near!r}?" if near else "")
                raise TypeError(message)
        init(self, *arguments, **given)

    return __init__
