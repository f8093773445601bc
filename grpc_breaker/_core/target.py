"""Targets: which server a channel calls, where one registry guards channels to several.

An interceptor cannot see the target of its channel, so it is told a name for it. The breaker of a method is then this
target's alone, and its name says which: "pricing.v1.Pricing/GetPrice@eu". Nothing else keeps the target, so a breaker
without one pays nothing for it.
"""

from __future__ import annotations

import re
from typing import Final

_TARGET: Final = re.compile(r"[^\s@]{1,200}")


def check_target(target: object) -> str:
    """The target itself; empty for `None`.

    Raises:
        TypeError: Something that is no string.
        ValueError: A string that cannot be told from the rest of a breaker's name.
    """
    if target is None:
        return ""
    message = f"target must be a name of 1 to 200 characters without spaces and '@', or None, got {target!r}"
    if not isinstance(target, str):
        raise TypeError(message)
    if not _TARGET.fullmatch(target):
        raise ValueError(message)
    return target


def at_target(name: str, target: str) -> str:
    """The name of the breaker that `name` has for a target; `name` itself without one."""
    return f"{name}@{target}" if target else name


def split_target(breaker: str) -> tuple[str, str]:
    """The name of a breaker without its target, and the target, which may be empty."""
    name, _, target = breaker.rpartition("@")
    return (name, target) if name else (breaker, "")
