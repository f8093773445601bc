"""gRPC's own outlier detection: the breaker for one backend of many, which no interceptor can be (docs/recipes.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, State, StateChange
from tests.support.server import PATIENCE, UNARY_UNARY, Server

ROUND_ROBIN: dict[str, Any] = {"round_robin": {}}
OUTLIERS = {
    "outlier_detection_experimental": {
        "interval": "0.2s",
        "baseEjectionTime": "30s",
        "failurePercentageEjection": {"threshold": 50, "minimumHosts": 3, "requestVolume": 5},
        "maxEjectionPercent": 50,
        "childPolicy": [ROUND_ROBIN],
    }
}
IN_A_ROW = 60
"""Calls, twenty for each backend while none is ejected."""


class Backends:
    """Three servers, one of which fails every call, behind one channel whose calls a breaker guards."""

    def __init__(self, channel: grpc.Channel, breakers: BreakerRegistry, servers: list[Server]) -> None:
        self._bare = channel.unary_unary(UNARY_UNARY)
        guarded = grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False))
        self._guarded = guarded.unary_unary(UNARY_UNARY)
        self._servers = servers
        self._calls = 0
        self.breakers = breakers

    def failures(self, calls: int) -> int:
        """Make so many calls, and say how many failed."""
        return sum(self._fails(self._guarded) for _ in range(calls))

    def connect(self) -> None:
        """Call past the breaker until every server had a call: one that is connected first gets several in a row."""
        deadline = time.monotonic() + PATIENCE
        while not all(self.reached()):
            assert time.monotonic() < deadline, "a backend had no call"
            self._fails(self._bare)

    def reached(self) -> list[int]:
        """How many calls reached each server, the one that fails last."""
        return [server.journal.began() for server in self._servers]

    def _fails(self, call: grpc.UnaryUnaryMultiCallable) -> bool:
        """Make a call, which is entered in the journal of the server that it reaches."""
        self._calls += 1
        try:
            call(b"ok", timeout=PATIENCE, metadata=[("call-key", str(self._calls))], wait_for_ready=True)
        except grpc.RpcError as error:
            assert error.details() == "sick", "neither a refusal nor a lost connection"
            return True
        return False


@contextmanager
def backends(balancing: dict[str, Any], breaker: dict[str, Any] | None = None) -> Iterator[Backends]:
    """Balance so, and guard so (by default with the defaults); begins once the channel is connected to all of them."""
    breakers = BreakerRegistry.from_service_config(
        {"methodConfig": [{"name": [{}], "circuitBreaker": breaker or {}}], "loadBalancingConfig": [balancing]}
    )
    with ExitStack() as running:
        servers = [running.enter_context(Server(script=script)) for script in ("ok", "ok", "error UNAVAILABLE sick")]
        target = "ipv4:" + ",".join(it.target for it in servers)
        channel = running.enter_context(grpc.insecure_channel(target, options=breakers.channel_options()))
        calls = Backends(channel, breakers, servers)
        calls.connect()
        yield calls


def test_outlier_detection_keeps_calls_from_a_backend_that_fails() -> None:
    """With outlier detection, calls soon reach the good backends alone, and none fails; the breaker never opens."""
    with backends(OUTLIERS) as calls:
        changes: list[StateChange] = []
        calls.breakers.on_state_change(changes.append)
        deadline = time.monotonic() + PATIENCE
        while calls.failures(IN_A_ROW):
            assert time.monotonic() < deadline, "the backend was not ejected"
        before = calls.reached()
        assert calls.failures(IN_A_ROW) == 0
        first, second, bad = (now - then for now, then in zip(calls.reached(), before, strict=True))
        assert first and second and not bad
        assert calls.breakers[UNARY_UNARY].state is State.CLOSED
        assert not changes


def test_without_it_a_breaker_neither_helps_nor_opens() -> None:
    """With round robin alone a third of the calls fails for as long as it lasts: too few to open the method's breaker."""
    with backends(ROUND_ROBIN) as calls:
        changes: list[StateChange] = []
        calls.breakers.on_state_change(changes.append)
        for _ in range(5):
            assert calls.failures(IN_A_ROW) == pytest.approx(IN_A_ROW / 3, abs=2)
        assert calls.breakers[UNARY_UNARY].state is State.CLOSED
        assert not changes


def test_one_successful_probe_closes_a_breaker_though_one_backend_fails() -> None:
    """Open, a breaker that one success closes comes back: of three probes in a row, one always reached the bad backend."""
    with backends(OUTLIERS, {"halfOpenMaxCalls": 1, "halfOpenSuccesses": 1, "resetTimeout": "0.05s"}) as calls:
        breaker = calls.breakers[UNARY_UNARY]
        while breaker.state is State.CLOSED:
            breaker.admit().failure()
        deadline = time.monotonic() + PATIENCE
        while breaker.state is not State.CLOSED:
            assert time.monotonic() < deadline, "it did not close"
            assert calls.breakers.wait_until_admitted(UNARY_UNARY, PATIENCE)
            calls.failures(1)
