"""A circuit breaker as tutorials have it written by hand: the counterpart of the first pair in docs/migrating.md."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any


class CircuitBreakerError(RuntimeError):
    """The call was refused."""


class CircuitBreaker:
    """Opens at so many failures in a window; the first success of a probe closes it."""

    def __init__(
        self, failure_threshold: int, reset_timeout: float, window_seconds: float, half_open_max_calls: int
    ) -> None:
        self._failure_threshold = failure_threshold
        self._reset_timeout = reset_timeout
        self._window_seconds = window_seconds
        self._half_open_max_calls = half_open_max_calls
        self._lock = threading.Lock()
        self._failed: deque[float] = deque()
        self._state, self._since, self._probes = "CLOSED", 0.0, 0

    def current_state(self) -> str:
        """The state, in capitals."""
        return self._state

    def protect(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Guard a function."""

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                if not self._allows(time.monotonic()):
                    raise CircuitBreakerError
            try:
                result = function(*args, **kwargs)
            except Exception:
                self._failure(time.monotonic())
                raise
            self._state = "CLOSED"
            return result

        return guarded

    def _allows(self, now: float) -> bool:
        if self._state == "OPEN" and now - self._since >= self._reset_timeout:
            self._state, self._probes = "HALF_OPEN", 0
        if self._state == "HALF_OPEN":
            self._probes += 1
            return self._probes <= self._half_open_max_calls
        return self._state == "CLOSED"

    def _failure(self, now: float) -> None:
        self._failed.append(now)
        while self._failed[0] < now - self._window_seconds:
            self._failed.popleft()
        if len(self._failed) >= self._failure_threshold:
            self._state, self._since = "OPEN", now
