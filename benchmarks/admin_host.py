"""The process whose breakers are looked at in `benchmarks/admin.py`: it does what it is told on its standard input.

breakers 1000   begin anew with so many breakers, each with some results and one with a failure
busy 1          count a result for each breaker every second, from now on; 0: no longer
cpu             say how many seconds of processor time it has used
calls 3         make guarded calls in two threads for so many seconds; say how long they took, in ms
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import grpc

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor
from grpc_breaker.admin import AdminServer, serve_admin
from tests.support.server import UNARY_UNARY, ServerProcess

DETAILS = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:50051: connection refused"


class Host:
    """The process."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._serving: AdminServer | None = None
        self._breakers = BreakerRegistry()
        self._busy = threading.Event()
        self._echo = ServerProcess()
        threading.Thread(target=self._be_busy, daemon=True).start()

    def breakers(self, count: int) -> str:
        if self._serving is not None:
            self._serving.stop()
        self._breakers = breakers = BreakerRegistry(default=BreakerPolicy(), max_breakers=5000)
        for number in range(count):
            breaker = breakers[f"shop.pricing.v1.Service{number // 10}/GetSomething{number % 10}"]
            for _ in range(20):
                breaker.admit().success()
            breaker.admit().failure("UNAVAILABLE", DETAILS)
        self._serving = serve_admin(breakers, directory=self._folder, max_watchers=100)
        return str(self._serving.path)

    def busy(self, on: int) -> None:
        self._busy.set() if on else self._busy.clear()

    def _be_busy(self) -> None:
        while self._busy.wait():
            for breaker in self._breakers:
                breaker.admit().success()
            time.sleep(1)

    def cpu(self) -> float:
        return time.process_time()

    def calls(self, seconds: float) -> list[float]:
        taken: list[float] = []
        until = time.monotonic() + seconds
        interceptor = CircuitBreakerInterceptor(self._breakers, telemetry=False)
        with grpc.intercept_channel(grpc.insecure_channel(self._echo.target), interceptor) as channel:
            method = channel.unary_unary(UNARY_UNARY)

            def run() -> None:
                while time.monotonic() < until:
                    began = time.perf_counter()
                    method(b"ok", timeout=10)
                    taken.append((time.perf_counter() - began) * 1000)
                    time.sleep(0.002)

            threads = [threading.Thread(target=run) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return taken

    def run(self) -> None:
        for line in sys.stdin:
            name, *arguments = line.split()
            answer: Any = getattr(self, name)(*map(float if name == "calls" else int, arguments))
            print(json.dumps(answer), flush=True)
        self._echo.kill()


if __name__ == "__main__":
    Host(sys.argv[1]).run()
