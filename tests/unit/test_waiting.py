"""Waiting until a call would be admitted, in threads and in asyncio."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, MethodPolicy, RateLimit, State, aio
from grpc_breaker.testing import FakeClock
from tests.support.decisions import METHOD, quick

PATIENCE = 30.0
"""Seconds after which a wait that ought to end has failed."""

Wait = Callable[..., bool]


def in_a_thread(breakers: BreakerRegistry, method: str | bytes, timeout: Any, **how: Any) -> bool:
    """Wait as threads do."""
    return breakers.wait_until_admitted(method, timeout, **how)


def in_asyncio(breakers: BreakerRegistry, method: str | bytes, timeout: Any, **how: Any) -> bool:
    """Wait as coroutines do, in a loop of its own."""
    return asyncio.run(aio.wait_until_admitted(breakers, method, timeout, **how))


each_way = pytest.mark.parametrize("wait", [in_a_thread, in_asyncio])


def registry(policy: BreakerPolicy | MethodPolicy, **how: Any) -> BreakerRegistry:
    """One policy for `pkg.S`."""
    return BreakerRegistry({"pkg.S": policy}, default=None, **how)


def opened(**how: Any) -> BreakerRegistry:
    """A registry whose breaker of the method was opened, for an hour."""
    breakers = registry(quick(reset_timeout=3600), **how)
    breakers[METHOD].admit().failure()
    return breakers


@each_way
def test_at_once(wait: Wait) -> None:
    """Where a call would be admitted the answer is True, without a wait."""
    assert wait(registry(quick()), METHOD, 0)
    assert wait(registry(quick()), b"/pkg.S/M", math.inf)


@each_way
def test_method_that_is_left_alone(wait: Wait) -> None:
    """A method without a breaker is always admitted."""
    assert wait(registry(quick()), "other.S/M", 0)


@each_way
def test_looks_only_at_timeout_zero(wait: Wait) -> None:
    """With no time to wait it looks once."""
    assert not wait(opened(), METHOD, 0)


@each_way
def test_time_is_over(wait: Wait) -> None:
    """When the time is over and no call would be admitted the answer is False."""
    assert not wait(opened(), METHOD, 0.02)


@each_way
def test_after_the_open_period(wait: Wait) -> None:
    """The wait ends with the open period; the call that comes then is the probe."""
    breakers = registry(quick(reset_timeout=0.05))
    breakers[METHOD].admit().failure()
    assert wait(breakers, METHOD, PATIENCE)
    assert breakers[METHOD].state is State.OPEN
    assert breakers[METHOD].admit().is_probe


@each_way
def test_nothing_is_reserved_or_counted(wait: Wait) -> None:
    """Looking takes no slot, no place and nothing of the rate, and counts nothing."""
    policy = MethodPolicy(breaker=quick(), max_concurrent_calls=1, rate_limit=RateLimit(0.001, burst=1))
    breakers = registry(policy, clock=FakeClock())
    for _ in range(5):
        assert wait(breakers, METHOD, 0)
    breakers[METHOD].admit()
    assert not wait(breakers, METHOD, 0)
    assert breakers[METHOD].tallies() == {}


def when_waited_for(breaker: CircuitBreaker, act: Callable[[], object]) -> threading.Thread:
    """Act on another thread a moment later, most likely while somebody waits; right either way."""

    def later() -> None:
        time.sleep(0)
        act()

    thread = threading.Thread(target=later)
    thread.start()
    return thread


@each_way
def test_reset_by_another_thread(wait: Wait) -> None:
    """A change of the state ends the wait at once."""
    breakers = opened()
    thread = when_waited_for(breakers[METHOD], breakers[METHOD].reset)
    assert wait(breakers, METHOD, PATIENCE)
    thread.join()


@each_way
def test_reset_of_what_was_forced_open(wait: Wait) -> None:
    """So it is with a breaker that only an operator can close."""
    breakers = registry(quick())
    breakers[METHOD].force_open()
    assert not wait(breakers, METHOD, 0.01)
    thread = when_waited_for(breakers[METHOD], breakers[METHOD].reset)
    assert wait(breakers, METHOD, PATIENCE)
    thread.join()


@each_way
def test_place_of_a_bulkhead(wait: Wait) -> None:
    """A place that becomes free ends the wait, though nobody is told of it."""
    breakers = registry(MethodPolicy(max_concurrent_calls=1))
    permit = breakers[METHOD].admit()
    assert not wait(breakers, METHOD, 0.02)
    thread = when_waited_for(breakers[METHOD], permit.success)
    assert wait(breakers, METHOD, PATIENCE)
    thread.join()


@each_way
def test_rate(wait: Wait) -> None:
    """The wait ends when the rate allows the next call."""
    breakers = registry(MethodPolicy(rate_limit=RateLimit(50, burst=1)))
    breakers[METHOD].admit().success()
    assert wait(breakers, METHOD, PATIENCE)


@each_way
def test_another_configuration_ends_the_wait(wait: Wait) -> None:
    """A method that is left alone now is admitted, whatever its breaker was."""
    breakers = opened()
    thread = when_waited_for(breakers[METHOD], lambda: breakers.reconfigure({}, default=None))
    assert wait(breakers, METHOD, PATIENCE)
    thread.join()


@each_way
def test_one_target(wait: Wait) -> None:
    """With a target it is the breaker of that target."""
    breakers = registry(quick(reset_timeout=3600))
    breakers[METHOD, "eu"].admit().failure()
    assert not wait(breakers, METHOD, 0, target="eu")
    assert wait(breakers, METHOD, 0, target="us")


@each_way
@pytest.mark.parametrize("ends", [True, False], ids=["admitted", "time over"])
def test_no_listener_is_left_behind(wait: Wait, ends: bool) -> None:
    """After the wait the breaker is as before: a registry that is full may forget it."""
    breakers = registry(quick(reset_timeout=0.01 if ends else 3600), max_breakers=1)
    breaker = breakers[METHOD]
    breaker.admit().failure()
    assert wait(breakers, METHOD, PATIENCE if ends else 0.01) == ends
    breaker.reset()
    breakers["pkg.S/Other"].admit().success()
    assert METHOD not in breakers


def test_cancelled_wait_leaves_no_listener() -> None:
    """A coroutine that is cancelled while it waits leaves nothing."""
    breakers = registry(quick(reset_timeout=3600), max_breakers=1)
    breaker = breakers[METHOD]
    breaker.admit().failure()

    async def story() -> None:
        task = asyncio.ensure_future(aio.wait_until_admitted(breakers, METHOD, PATIENCE))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    breaker.reset()
    breakers["pkg.S/Other"].admit().success()
    assert METHOD not in breakers


def test_waiting_does_not_block_the_loop() -> None:
    """While one coroutine waits others run: one of them closes the breaker."""
    breakers = opened()

    async def story() -> bool:
        task = asyncio.ensure_future(aio.wait_until_admitted(breakers, METHOD, PATIENCE))
        await asyncio.sleep(0)
        breakers[METHOD].reset()
        return await task

    assert asyncio.run(story())


def test_loop_that_is_closed_hears_nothing() -> None:
    """A change of the state after a loop was closed in the middle of a wait raises nothing."""
    breakers = opened()
    loop = asyncio.new_event_loop()
    waiting = aio.wait_until_admitted(breakers, METHOD, PATIENCE)
    task = loop.create_task(waiting)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    breakers[METHOD].reset()
    assert breakers[METHOD].state is State.CLOSED
    assert not task.done()
    waiting.close()


@each_way
@pytest.mark.parametrize("timeout", [None, "5", True, 1j, [1]])
def test_timeout_of_the_wrong_kind(wait: Wait, timeout: Any) -> None:
    """A timeout that is no number is an error, also where a call would be admitted."""
    with pytest.raises(TypeError, match="timeout must be a number of seconds, 0 or more, got"):
        wait(registry(quick()), METHOD, timeout)


@each_way
@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan])
def test_timeout_out_of_range(wait: Wait, timeout: float) -> None:
    """So is a negative one, and what is not a number."""
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more, got"):
        wait(registry(quick()), METHOD, timeout)


@each_way
def test_very_long_timeout(wait: Wait) -> None:
    """Any number of seconds may be given, also one that no clock can add."""
    breakers = opened()
    thread = when_waited_for(breakers[METHOD], breakers[METHOD].reset)
    assert wait(breakers, METHOD, 10**400)
    thread.join()


@each_way
def test_wrong_target(wait: Wait) -> None:
    """A target that is none is an error."""
    with pytest.raises(ValueError, match="target must be"):
        wait(registry(quick()), METHOD, 0, target="e u")


@each_way
def test_clock_that_raises(wait: Wait) -> None:
    """What the registry's clock raises reaches the caller."""
    broken: list[bool] = []

    def clock() -> float:
        if broken:
            raise LookupError
        return 0.0

    breakers = opened(clock=clock)
    broken.append(True)
    with pytest.raises(LookupError):
        wait(breakers, METHOD, PATIENCE)


@each_way
@pytest.mark.parametrize("method", [None, 3, ["pkg.S/M"]])
def test_method_that_is_no_name(wait: Wait, method: Any) -> None:
    """What is no name is an error that says what is one."""
    with pytest.raises(TypeError, match=r"wait_until_admitted method must be a name like 'pkg\.Service/Method', got"):
        wait(BreakerRegistry(), method, 0)


@each_way
@pytest.mark.parametrize("method", ["", "pkg.S", "/pkg.S", "pkg.S/", "pkg.S/M/N", b"pkg.S", b"\xff/M"])
def test_name_of_no_method(wait: Wait, method: Any) -> None:
    """A service or a misspelt name is an error: the wait would be over at once, whatever the breakers do."""
    breakers = BreakerRegistry({"pkg.S": quick()})
    breakers.force_open("pkg.S")
    with pytest.raises(ValueError, match=r"wait_until_admitted method must be a name like 'pkg\.Service/Method', got"):
        wait(breakers, method, 0)
    assert not list(breakers)
