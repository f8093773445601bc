"""What happens to the servers of a soak: killed, stopped, continued, started again, slow, flaky, and at times well."""

from __future__ import annotations

import random
import threading
from collections import Counter

from grpc_breaker import BreakerRegistry
from tests.support.server import ServerProcess
from tests.support.traffic import Server


class Trouble(threading.Thread):
    """Troubles one server until it is stopped, and leaves it well."""

    def __init__(self, process: ServerProcess, server: Server, breakers: BreakerRegistry, seed: str) -> None:
        super().__init__(name=f"trouble of {server.service}")
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._process = process
        self._server = server
        self._breakers = breakers
        self._rng = random.Random(seed)
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        self._server.weather.in_trouble = True
        deeds = [self._kill, self._pause, self._flaky, self._slow, self._operate, self._rest]
        try:
            while not self._over.is_set():
                deed = self._rng.choices(deeds, [2, 3, 3, 3, 1, 6])[0]
                self.done[deed.__name__.removeprefix("_")] += 1
                deed()
        except BaseException as error:
            self.error = error
        self._server.weather.now = "fair"
        self._server.weather.in_trouble = False

    def _wait(self, least: float, most: float) -> None:
        self._over.wait(self._rng.uniform(least, most))

    def _kill(self) -> None:
        if self._rng.random() < 0.3:
            self._process.pause()
        self._process.kill()
        self._wait(0.0, 0.5)
        self._process.restart()

    def _pause(self) -> None:
        self._process.pause()
        self._wait(0.02, 1.2)
        self._process.resume()

    def _flaky(self) -> None:
        self._server.weather.now = "flaky"
        self._wait(0.2, 1.0)

    def _slow(self) -> None:
        self._server.weather.now = "slow"
        self._wait(0.2, 1.0)

    def _rest(self) -> None:
        self._server.weather.now = "fair"
        self._wait(0.2, 1.0)

    def _operate(self) -> None:
        for breaker in self._breakers:
            command = self._rng.choice([breaker.force_open, breaker.disable, breaker.snapshot, breaker.__repr__])
            command()
            self._wait(0.0, 0.05)
            breaker.reset()
            breaker.reconfigure(breaker.policy)
