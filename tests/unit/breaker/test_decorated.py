"""Decorated functions and coroutine functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from grpc_breaker import CircuitBreaker, CircuitOpenError


def test_decorated_function(breaker: CircuitBreaker) -> None:
    """A decorated function keeps its name, its result and its exceptions, and is refused when the breaker is open."""

    @breaker
    def price(number: int) -> float:
        """What it costs."""
        return 1 / number

    assert (price(2), price.__name__, price.__doc__) == (0.5, "price", "What it costs.")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            price(0)
    with pytest.raises(CircuitOpenError):
        price(2)


def test_decorated_coroutine_function(breaker: CircuitBreaker) -> None:
    """A decorated coroutine function is one still, and counts when it ends."""

    @breaker
    async def price(number: int) -> float:
        return 1 / number

    async def story() -> None:
        assert await price(2) == 0.5
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await price(0)
        with pytest.raises(CircuitOpenError):
            await price(2)

    asyncio.run(story())
    assert breaker.snapshot()["totals"] == {
        "success": 1,
        "failure": 2,
        "ignored": 0,
        "rejected": 1,
        "stale": 0,
        "unenforced": 0,
    }


def test_decorated_object_with_coroutine_call(breaker: CircuitBreaker) -> None:
    """An object whose call is a coroutine function counts when that ends."""

    class Fetch:
        async def __call__(self) -> str:
            assert breaker.in_flight == 1
            raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            await breaker(Fetch())()

    asyncio.run(main())
    assert breaker.snapshot()["totals"]["failure"] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_decorated_function_that_is_left(breaker: CircuitBreaker, error: type[BaseException]) -> None:
    """Ctrl-C, exit and cancellation inside a decorated function pass untouched, and are ignored."""

    @breaker
    def leave() -> None:
        raise error

    with pytest.raises(error):
        leave()
    assert breaker.tallies() == {("ignored", error.__name__): 1}
    assert breaker.in_flight == 0


def generator() -> Iterator[int]:
    """A generator function."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """An asynchronous one."""
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (generator, r"function .*generator:\d+; use 'with breaker.admit\(\):'"),
        (async_generator, r"async_generator:\d+"),
        (7, "decorates a function"),
    ],
)
def test_what_cannot_be_decorated(breaker: CircuitBreaker, function: Any, words: str) -> None:
    """A generator function is refused, because calling it does nothing yet."""
    with pytest.raises(TypeError, match=words):
        breaker(function)
