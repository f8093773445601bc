"""What bit the others, tried on the peers: each defect an experiment that is the same for everyone.

    python -m benchmarks.pitfalls

The numbers are those of `tests/test_pitfalls.py`, where each is a regression test of this package. An experiment
answers what it saw and whether that is the defect. The peers are attached as `benchmarks/peers.py` says.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.peers import FAILURES, Guard, aio_peers, sync_peers
from grpc_breaker import BreakerPolicy, CircuitBreaker

RESET = 0.1
PATIENCE = 5.0
Seen = tuple[str, bool]
"""What was seen, and whether it is the defect."""


class Switch:
    """A function that fails when it is told to, and can be made to wait."""

    def __init__(self, guard: Guard) -> None:
        self.error: BaseException | None = None
        self.gate: threading.Event | None = None
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()
        self.call = guard(self._call)

    def _call(self) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            if self.gate is not None:
                self.gate.wait(PATIENCE)
            if self.error is not None:
                raise self.error
        finally:
            with self._lock:
                self.running -= 1

    def caught(self) -> BaseException | None:
        """Call; answer what it raised."""
        try:
            self.call()
        except BaseException as error:  # noqa: BLE001 - whatever it is
            return error
        return None

    def open(self) -> None:
        """Fail until it is open."""
        self.error = LookupError("ill")
        for _ in range(FAILURES):
            self.caught()
        self.error = None

    def wait_out(self) -> None:
        """Let the open period pass."""
        time.sleep(1.5 * RESET)


def stampede(guard: Guard) -> Seen:
    """5: ten calls at once find the period over; how many are sent to a server that may still be ill?"""
    switch = Switch(guard)
    switch.open()
    switch.wait_out()
    switch.gate = threading.Event()
    with ThreadPoolExecutor(10) as pool:
        for _ in range(10):
            pool.submit(switch.caught)
        time.sleep(0.2)
        switch.gate.set()
    return f"{switch.most} of 10 probes", switch.most > 3


def leak(guard: Guard) -> Seen:
    """1: a probe is interrupted (Ctrl-C); do calls ever pass again?"""
    switch = Switch(guard)
    switch.open()
    for _ in range(4):
        switch.wait_out()
        switch.error = KeyboardInterrupt()
        switch.caught()
    switch.error = None
    for _ in range(5):
        switch.wait_out()
        if switch.caught() is None:
            return "recovers", False
    return "refuses for ever", True


def interrupted(guard: Guard) -> Seen:
    """24: Ctrl-C in calls to a server that is well; does it open the breaker, or change the exception?"""
    switch = Switch(guard)
    switch.error = KeyboardInterrupt()
    raised = {type(switch.caught()).__name__ for _ in range(2 * FAILURES)}
    switch.error = None
    answer = switch.caught()
    return ("opens" if answer is not None else "stays closed"), answer is not None or raised != {"KeyboardInterrupt"}


def stale(guard: Guard) -> Seen:
    """4: a call of before the outage succeeds while a probe of the ill server is out; how many more are sent there?"""
    switch = Switch(guard)
    switch.gate = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        old = pool.submit(switch.caught)
        while not switch.running:
            time.sleep(0.001)
        gate, switch.gate = switch.gate, None
        switch.open()
        switch.wait_out()
        switch.gate = held = threading.Event()
        probe = pool.submit(switch.caught)
        while switch.running < 2 and not probe.done():
            time.sleep(0.001)
        gate.set()
        old.result()
        switch.gate, switch.error = None, LookupError("still ill")
        sent = sum(isinstance(switch.caught(), LookupError) for _ in range(10))
        held.set()
    return f"{sent} of 10", sent > 2


def same_error(guard: Guard) -> Seen:
    """16: two refusals; are they one exception object?"""
    switch = Switch(guard)
    switch.open()
    first, second = switch.caught(), switch.caught()
    return ("one object" if first is second else "fresh each time"), first is second


def in_line(guard: Guard) -> Seen:
    """19: ten calls at once through a closed breaker; do they run at once?"""
    switch = Switch(guard)
    switch.gate = threading.Event()
    with ThreadPoolExecutor(10) as pool:
        for _ in range(10):
            pool.submit(switch.caught)
        time.sleep(0.2)
        switch.gate.set()
    return f"{switch.most} of 10 at once", switch.most < 10


def cancelled(guard: Guard) -> Seen:  # noqa: C901 - one story
    """2: asyncio calls to a server that is well are cancelled; does that open the breaker, or use up its probes?"""

    async def main() -> Seen:  # noqa: C901 - see above
        error: BaseException | None = None
        hangs = False

        async def work() -> None:
            if hangs:
                await asyncio.sleep(PATIENCE)
            if error is not None:
                raise error

        call = guard(work)

        async def passes() -> bool:
            try:
                await call()
            except Exception:  # noqa: BLE001 - every breaker has its own
                return False
            return True

        async def cancel() -> None:
            nonlocal hangs
            hangs = True
            task = asyncio.ensure_future(call())
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            hangs = False

        for _ in range(2 * FAILURES):
            await cancel()
        if not await passes():
            return "opens", True
        error = LookupError("ill")
        for _ in range(FAILURES):
            await passes()
        error = None
        for _ in range(4):
            await asyncio.sleep(1.5 * RESET)
            await cancel()
        for _ in range(5):
            await asyncio.sleep(1.5 * RESET)
            if await passes():
                return "ignored", False
        return "refuses for ever", True

    return asyncio.run(main())


def table(title: str, peers: Callable[[], dict[str, Guard]], experiments: list[Callable[[Guard], Seen]]) -> str:
    """Every experiment on every peer, as a Markdown table."""
    names = [*peers(), "grpc_breaker"]
    lines = [f"### {title}", "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for experiment in experiments:
        cells = []
        for name in names:
            seen, defect = experiment({**peers(), "grpc_breaker": ours()}[name])
            cells.append(f"**{seen}**" if defect else seen)
        lines.append(f"| {(experiment.__doc__ or '').strip()} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def ours() -> CircuitBreaker:
    """A breaker with the same limits."""
    policy: dict[str, Any] = {"consecutive_failures": FAILURES, "reset_timeout": RESET, "reset_timeout_jitter": 0}
    return CircuitBreaker("ours", BreakerPolicy(**policy))


def main() -> None:
    """Print the tables; what shows a defect is bold."""
    sync = [stampede, leak, interrupted, stale, same_error, in_line]
    print(table("In threads", lambda: sync_peers(RESET), sync))
    print(table("In asyncio", lambda: aio_peers(RESET), [cancelled]))


if __name__ == "__main__":
    main()
