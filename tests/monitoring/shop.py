"""A process with breakers in every state, some of them in trouble, whose metrics Prometheus can scrape: this one."""

from __future__ import annotations

import threading
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, start_http_server

from grpc_breaker import BreakerPolicy, BreakerRegistry, Fallback, MethodPolicy
from grpc_breaker.telemetry import BreakerTelemetry

SERVICE: Final = "shop.v1.Prices"
REFUSES: Final = f"{SERVICE}/Refuses"
FLAPS: Final = f"{SERVICE}/Flaps"
STAYS_CLOSED: Final = f"{SERVICE}/StaysClosed"
HANGS: Final = f"{SERVICE}/Hangs"
IS_FULL: Final = f"{SERVICE}/IsFull"
HELD: Final = f"{SERVICE}/Held"
DISABLED: Final = f"{SERVICE}/Disabled"
HALF_OPEN: Final = f"{SERVICE}/HalfOpen"
FALLS_BACK: Final = f"{SERVICE}/FallsBack"

_FRAGILE: Final = BreakerPolicy(consecutive_failures=2, reset_timeout=600)
_POLICIES: Final = {
    REFUSES: _FRAGILE,
    FLAPS: _FRAGILE,
    STAYS_CLOSED: MethodPolicy(breaker=None),
    HANGS: BreakerPolicy(consecutive_failures=10**6, hung_after=0.01),
    IS_FULL: MethodPolicy(max_concurrent_calls=1),
    HALF_OPEN: BreakerPolicy(consecutive_failures=1, reset_timeout=0.001, probe_timeout=600),
    FALLS_BACK: MethodPolicy(fallback=Fallback(constant=b"none")),
}


class Shop:
    """Calls of methods that are in trouble, twenty of each per second, until `recover`."""

    def __init__(self) -> None:
        """Start the calls, and a server for the metrics."""
        self.breakers = BreakerRegistry(_POLICIES)
        registry = CollectorRegistry()
        self._provider = MeterProvider([PrometheusMetricReader(registry=registry)])
        BreakerTelemetry(meter_provider=self._provider).attach(self.breakers)
        self._server, _ = start_http_server(0, "127.0.0.1", registry)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._over = threading.Event()
        self._in_flight: list[Any] = []
        for name in (*_POLICIES, HELD, DISABLED):
            assert self.breakers[name]  # made before its first call, as by an application that starts
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _fail(self, name: str, times: int) -> None:
        for _ in range(times):
            self.breakers[name].admit().failure("UNAVAILABLE", "ill")

    def _call(self) -> None:
        self._over.wait(1.5)  # until Prometheus has seen the counters at 0
        self._fail(REFUSES, 2)
        self._fail(HALF_OPEN, 1)
        self._over.wait(0.01)
        self._in_flight.append(self.breakers[HALF_OPEN].admit())
        self.breakers[HELD].force_open()
        self.breakers[DISABLED].disable(ttl=600)
        _, _, stack = self.breakers.route(FALLS_BACK) or (None, None, None)
        assert stack is not None
        self._in_flight.append(self.breakers[IS_FULL].try_admit())
        while not self._over.wait(0.05):
            self.breakers[REFUSES].try_admit()
            self.breakers[IS_FULL].try_admit()
            self._fail(FLAPS, 2)
            self.breakers[FLAPS].reset()
            for name in (FLAPS, HANGS):  # most of their calls succeed
                for _ in range(8):
                    self.breakers[name].admit().success()
            self._fail(STAYS_CLOSED, 1)
            self.breakers[STAYS_CLOSED].admit().success()
            self._in_flight.append(self.breakers[HANGS].admit())
            stack.count_retry()
            stack.count_fallback("constant")

    def recover(self) -> None:
        """Nobody makes calls any more, and nothing is held; what is open stays open."""
        self._over.set()
        self._thread.join()
        self.breakers[HELD].reset()
        self.breakers[DISABLED].reset()

    def close(self) -> None:
        """Stop everything."""
        self.recover()
        for permit in self._in_flight:
            permit.ignore()
        self._server.shutdown()
        self._server.server_close()
        self._provider.shutdown()
