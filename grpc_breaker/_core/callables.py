"""What can be told of a callable that a user gave: its name, whether calling it runs it, whether it is a clock."""

from __future__ import annotations

import inspect
import math

from grpc_breaker._core.interrupts import passes_through


def name_of(function: object) -> str:
    """A name under which a person finds `function` in their own code. Raises nothing of its own."""
    try:
        return _name_of(function)
    except Exception as error:  # a proxy, say, of what is not there
        if passes_through(error):
            raise
        return type(function).__qualname__


def _name_of(function: object) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    qualified = getattr(function, "__qualname__", None) or type(function).__qualname__
    code = getattr(function, "__code__", None)
    line = f":{code.co_firstlineno}" if code is not None else ""
    return f"{module}.{qualified}{line}"


def is_coroutine_function(function: object) -> bool:
    """Whether calling `function` makes a coroutine."""
    return any(inspect.iscoroutinefunction(it) for it in _what_is_called(function))


def is_generator_function(function: object) -> bool:
    """Whether calling `function` makes a generator, asynchronous or not."""
    return any(inspect.isgeneratorfunction(it) or inspect.isasyncgenfunction(it) for it in _what_is_called(function))


def _what_is_called(function: object) -> tuple[object, object]:
    return function, type(function).__call__


def runs_when_called(function: object) -> bool:
    """Whether calling `function` does what it is for: a listener or classifier of another kind would never run."""
    return callable(function) and not is_coroutine_function(function) and not is_generator_function(function)


def check_clock(clock: object) -> None:
    """Check that a clock is one.

    Raises:
        TypeError: It is not.
    """
    now = clock() if callable(clock) else None
    if isinstance(now, bool) or not isinstance(now, int | float) or not math.isfinite(now):
        message = f"clock must be a callable that returns seconds, got {clock!r}" + (
            f" returning {now!r}" if callable(clock) else ""
        )
        raise TypeError(message)


def check_random(random: object) -> None:
    """Check that a source of chance is one.

    Raises:
        TypeError: It is not.
    """
    chance = random() if callable(random) else None
    if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance < 1:
        message = f"random must be a callable that returns a number in [0, 1), got {random!r}" + (
            f" returning {chance!r}" if callable(random) else ""
        )
        raise TypeError(message)
