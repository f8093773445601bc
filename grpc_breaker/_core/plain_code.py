"""Guarding a function or coroutine function, `@breaker`: the two steps around each call of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from grpc_breaker._core.admission import Admission
from grpc_breaker._core.callables import is_coroutine_function, is_generator_function, name_of
from grpc_breaker._core.errors import refusal_of
from grpc_breaker._core.permit import Permit

P = ParamSpec("P")
R = TypeVar("R")

# Without a classifier a call that ended well is settled here, as `permit.conclude()` does it one function later.


def guarded(machine: Admission, function: Callable[P, R]) -> Callable[P, R]:
    """The function with every call of it guarded.

    Raises:
        TypeError: It is a generator function: calling one does nothing yet, so there is no result to count.
    """
    if is_generator_function(function):
        message = (
            f"a breaker cannot decorate the generator function {name_of(function)}; "
            "use 'with breaker.admit():' around the loop over it"
        )
        raise TypeError(message)
    if not callable(function):
        message = f"a breaker decorates a function or a coroutine function, got {function!r}"
        raise TypeError(message)
    if is_coroutine_function(function):
        return cast("Callable[P, R]", _guarded_coroutine(machine, cast("Callable[P, Awaitable[R]]", function)))
    return _guarded_function(machine, function)


def _guarded_function(machine: Admission, function: Callable[P, R]) -> Callable[P, R]:
    admit = machine.try_admit

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        permit = admit("", None, True, None)  # defaults would cost more than to name them
        if not isinstance(permit, Permit):
            raise refusal_of(permit)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            permit.conclude(error)
            raise
        if machine._policy.classify is None:
            permit.success()
        else:
            permit.conclude(None, result)
        return result

    return guarded


def _guarded_coroutine(machine: Admission, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    admit = machine.try_admit

    @wraps(function)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        permit = admit("", None, True, None)  # defaults would cost more than to name them
        if not isinstance(permit, Permit):
            raise refusal_of(permit)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            permit.conclude(error)
            raise
        if machine._policy.classify is None:
            permit.success()
        else:
            permit.conclude(None, result)
        return result

    return guarded
