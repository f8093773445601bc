"""The registry as its users see it: the core's, with what waits, which the core never does."""

from __future__ import annotations

import time
from threading import Event

from grpc_breaker._core.registry import Registry
from grpc_breaker._waiting import check_timeout, pauses


class BreakerRegistry(Registry):
    """The breakers of a process, or of a part of it: one for each RPC method, made on first use.

    One registry serves sync and asyncio interceptors, several channels, threads and event loops at once.
    """

    __module__ = "grpc_breaker"

    def wait_until_admitted(self, method: str | bytes, timeout: float, *, target: str | None = None) -> bool:
        """Wait until a call of a method would be admitted: for a batch job that has nothing better to do.

        Blocks the calling thread; in asyncio use `aio.wait_until_admitted`. Nothing is reserved: another call may come
        first, so a loop of its own makes the call, and waits again if it is refused::

            while breakers.wait_until_admitted("pricing.v1.Pricing/GetPrice", timeout=60):
                try:
                    return stub.GetPrice(request, timeout=1)
                except CallRefusedError:
                    continue

        Args:
            method: The method, "pricing.v1.Pricing/GetPrice".
            timeout: Seconds to wait at most, 0 or more; at 0 it only looks.
            target: The target, where the interceptor has one.

        Returns:
            True when a call of one request and one answer would be admitted now; a throttle, which refuses by chance,
            is not asked. False when the time is over.

        Raises:
            TypeError: `timeout` is no number, or `target` no string.
            ValueError: `timeout` is negative or not a number, or `target` is none.
        """
        seconds = check_timeout(timeout)
        breaker = self.breaker_for(method, target)
        if breaker is None or breaker.refusal_now() is None:
            return True
        changed = Event()
        end = breaker.on_state_change(lambda _: changed.set())
        try:
            deadline = time.monotonic() + seconds
            for pause in pauses(breaker):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                changed.wait(min(pause, left))
                changed.clear()
        finally:
            end()
        return True
