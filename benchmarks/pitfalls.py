"""Pitfalls of other circuit breakers, tried on the peers: each an experiment that is the same for all of them.

    python -m benchmarks.pitfalls

The number of an experiment is that of the regression test in `tests/test_pitfalls.py`; one without a number shows what
a peer leaves out by design. An experiment returns what it saw, and whether that is the defect. The peers are attached
as `benchmarks/peers.py` says. A peer for asyncio only is in the second table alone.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import time_machine

from benchmarks.peers import FAILURES, Guard, aio_interceptor_peers, aio_peers, as_decorator, sync_peers
from grpc_breaker import BreakerPolicy, CircuitBreaker

RESET = 0.1
PATIENCE = 5.0
CALLERS = 10
Seen = tuple[str, bool]
"""What was seen, and whether it is the defect."""


class Switch:
    """A guarded function that fails while `error` is set, and waits for `block` if there is one.

    The calls of a peer for threads run in a pool of threads, those of a peer for asyncio as tasks.
    """

    def __init__(self, guard: Guard, pool: ThreadPoolExecutor | None) -> None:
        """Guard the function; without a pool it is a coroutine function."""
        self.error: BaseException | None = None
        self.block: threading.Event | None = None
        self.begun = 0
        """The calls that were let through so far."""
        self.running = 0
        self.most = 0
        """The most calls that ran at once."""
        self._pool = pool
        self._lock = threading.Lock()

        async def work_awaited() -> None:  # a function, because aiobreaker decorates no method
            await self._work_awaited()

        self._call = guard(work_awaited if pool is None else self._work)

    def _enter(self) -> None:
        with self._lock:
            self.begun += 1
            self.running += 1
            self.most = max(self.most, self.running)

    def _leave(self) -> None:
        with self._lock:
            self.running -= 1

    def _work(self) -> None:
        self._enter()
        try:
            if self.block is not None:
                self.block.wait(PATIENCE)
            if self.error is not None:
                raise self.error
        finally:
            self._leave()

    async def _work_awaited(self) -> None:
        self._enter()
        try:
            block = self.block
            if block is not None:
                await wait_until(block.is_set)
            if self.error is not None:
                raise self.error
        finally:
            self._leave()

    def _caught(self) -> BaseException | None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - each peer has errors of its own
            return error
        return None

    async def _caught_awaited(self) -> BaseException | None:
        try:
            await self._call()
        except BaseException as error:  # noqa: BLE001 - each peer has errors of its own
            return error
        return None

    def start(self) -> asyncio.Future[BaseException | None]:
        """Begin a call; the future's result is what the call raised."""
        if self._pool is None:
            return asyncio.ensure_future(self._caught_awaited())
        return asyncio.get_running_loop().run_in_executor(self._pool, self._caught)

    async def caught(self) -> BaseException | None:
        """Make a call; returns what it raised."""
        return await self.start()

    async def passes(self) -> bool:
        """Make a call; returns whether it raised nothing."""
        return await self.start() is None

    async def open(self) -> None:
        """Fail until the breaker is open."""
        self.error = LookupError("ill")
        for _ in range(FAILURES):
            await self.caught()
        self.error = None

    async def recovers(self) -> bool:
        """Whether one of five calls passes, each made when an open period is over."""
        for _ in range(5):
            await wait_out()
            if await self.passes():
                return True
        return False


async def wait_out() -> None:
    """Let the open period pass."""
    await asyncio.sleep(1.5 * RESET)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, for as long as PATIENCE at most."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110 - threads make the condition true, too
        await asyncio.sleep(0.001)


async def at_once(switch: Switch) -> int:
    """How many of ten calls that begin at once run at the same time."""
    switch.most = 0
    switch.block = threading.Event()
    calls = [switch.start() for _ in range(CALLERS)]
    await asyncio.sleep(0.2)
    switch.block.set()
    await asyncio.gather(*calls)
    return switch.most


async def stampede(switch: Switch) -> Seen:
    """5: ten calls at once find the period over; how many are sent to a server that may still be ill?"""
    await switch.open()
    await wait_out()
    most = await at_once(switch)
    return f"{most} of {CALLERS} probes", most > 3


async def leak(switch: Switch) -> Seen:
    """1: a probe is interrupted (Ctrl-C); do calls ever pass again?"""
    await switch.open()
    for _ in range(4):
        await wait_out()
        switch.error = KeyboardInterrupt()
        await switch.caught()
    switch.error = None
    recovers = await switch.recovers()
    return "recovers" if recovers else "refuses for ever", not recovers


async def interrupted(switch: Switch) -> Seen:
    """24: Ctrl-C in calls to a server that is well; does it open the breaker, or change the exception?"""
    switch.error = KeyboardInterrupt()
    raised = {type(await switch.caught()).__name__ for _ in range(2 * FAILURES)}
    switch.error = None
    passes = await switch.passes()
    return "stays closed" if passes else "opens", not passes or raised != {"KeyboardInterrupt"}


async def stale(switch: Switch) -> Seen:
    """4: a call of before the outage succeeds while a probe of the ill server is out; how many more are sent there?"""
    old_may_end = switch.block = threading.Event()
    old = switch.start()
    await wait_until(lambda: switch.running == 1)
    switch.block = None
    await switch.open()
    await wait_out()
    if old.done():
        return "one call at a time", False
    probe_may_end = switch.block = threading.Event()
    probe = switch.start()
    await wait_until(lambda: switch.running == 2 or probe.done())
    old_may_end.set()
    await old
    switch.block, switch.error = None, LookupError("still ill")
    before = switch.begun
    for _ in range(CALLERS):
        await switch.caught()
    sent = switch.begun - before
    probe_may_end.set()
    await probe
    return f"{sent} of {CALLERS}", sent > 2


async def same_error(switch: Switch) -> Seen:
    """16: two refusals; are they one exception object?"""
    await switch.open()
    first, second = await switch.caught(), await switch.caught()
    return "one object" if first is second else "fresh each time", first is second


async def in_line(switch: Switch) -> Seen:
    """19: ten calls at once through a closed breaker; do they run at once?"""
    most = await at_once(switch)
    return f"{most} of {CALLERS} at once", most < CALLERS


async def clock_back(switch: Switch) -> Seen:
    """8: the wall clock is set back by an hour while it is open; do calls pass when the period is over?"""
    await switch.open()
    with time_machine.travel(timedelta(hours=-1)):
        recovers = await switch.recovers()
    return "recovers" if recovers else "refuses for an hour", not recovers


async def clock_forward(switch: Switch) -> Seen:
    """8: the wall clock is set forward by an hour; does a call pass before the period is over?"""
    await switch.open()
    with time_machine.travel(timedelta(hours=1)):
        passes = await switch.passes()
    return "passes at once" if passes else "waits", passes


async def half_fail(switch: Switch) -> Seen:
    """Every other call fails, of two hundred; does it ever open?"""
    for calls in range(200):
        switch.error = LookupError("ill") if calls % 2 else None
        await switch.caught()
        if switch.begun == calls:
            return f"opens after {calls} calls", False
    return "never opens", True


async def cancelled(switch: Switch) -> Seen:
    """2: asyncio calls to a server that is well are cancelled; does that open the breaker, or use up its probes?"""

    async def cancel() -> None:
        switch.block = threading.Event()
        call = switch.start()
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        switch.block = None

    for _ in range(2 * FAILURES):
        await cancel()
    if not await switch.passes():
        return "opens", True
    await switch.open()
    for _ in range(4):
        await wait_out()
        await cancel()
    recovers = await switch.recovers()
    return "ignored" if recovers else "refuses for ever", not recovers


Experiment = Callable[[Switch], Awaitable[Seen]]
IN_BOTH = (stampede, stale, same_error, in_line, clock_back, clock_forward, half_fail)


async def run(experiment: Experiment, guard: Guard, *, in_threads: bool) -> Seen:
    """One experiment on one peer."""
    if not in_threads:
        return await experiment(Switch(guard, None))
    with ThreadPoolExecutor(CALLERS + 2) as pool:
        return await experiment(Switch(guard, pool))


def table(
    title: str, peers: Callable[[], dict[str, Guard]], experiments: Sequence[Experiment], *, in_threads: bool
) -> str:
    """Every experiment on every peer, as a Markdown table."""
    names = list(peers())
    lines = [f"### {title}", "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for experiment in experiments:
        cells = []
        for name in names:
            seen, defect = asyncio.run(run(experiment, peers()[name], in_threads=in_threads))
            cells.append(f"**{seen}**" if defect else seen)
        lines.append(f"| {(experiment.__doc__ or '').strip()} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def ours() -> CircuitBreaker:
    """A breaker with the same limits, and the default conditions."""
    policy = BreakerPolicy(
        consecutive_failures=FAILURES,
        failure_rate=0.5,
        reset_timeout=RESET,
        reset_timeout_jitter=0,
        probe_timeout=10 * RESET,  # what is measured in it shall not outlast an experiment
    )
    return CircuitBreaker("ours", policy)


def for_threads() -> dict[str, Guard]:
    """What guards a function."""
    return {**sync_peers(RESET), "grpc_breaker": ours()}


def for_asyncio() -> dict[str, Guard]:
    """What guards a coroutine function, or the calls of an asyncio channel."""
    of_channels = {name: as_decorator(interceptors) for name, interceptors in aio_interceptor_peers(RESET).items()}
    return {**aio_peers(RESET), **of_channels, "grpc_breaker": ours()}


def main() -> None:
    """Print the tables; what shows a defect is bold."""
    print(table("In threads", for_threads, [leak, interrupted, *IN_BOTH], in_threads=True))
    print(table("In asyncio", for_asyncio, [cancelled, *IN_BOTH], in_threads=False))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.pitfalls", description=__doc__).parse_args()
    main()
