"""How many attempts reach a sick server: gRPC's own retries, an interceptor's inside the breaker, tenacity around it, ours.

Each call may be attempted four times, and the breaker opens at five failures in a row. `python -m
tests.integration.test_retry_storms` prints the figures.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, MethodPolicy, RetryPolicy, aio
from tests.support.programmed import ProgrammedServer, fails
from tests.support.server import PATIENCE, UNARY_UNARY

ATTEMPTS = 4
CALLS = 20
BREAKER = BreakerPolicy(consecutive_failures=5, reset_timeout=1000)
OURS = MethodPolicy(breaker=BREAKER, retry=RetryPolicy(max_attempts=ATTEMPTS, initial_backoff=0.01, max_backoff=0.01))
NATIVE = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": ATTEMPTS,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
Call = Callable[[], object]


class RetryInside(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor that tries again, inside the breaker: what many a client has."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        for _ in range(ATTEMPTS):
            call = continuation(client_call_details, request)
            if call.code() is not grpc.StatusCode.UNAVAILABLE:
                break
        return call


@contextmanager
def stub(
    server: ProgrammedServer, policy: BreakerPolicy | MethodPolicy, options: tuple[Any, ...] = (), *inside: Any
) -> Iterator[tuple[Call, BreakerRegistry]]:
    """A method of the server behind a breaker."""
    breakers = BreakerRegistry(default=policy)
    with grpc.insecure_channel(server.target, options=options) as channel:
        ours = CircuitBreakerInterceptor(breakers, telemetry=False)
        method = grpc.intercept_channel(channel, ours, *inside).unary_unary(UNARY_UNARY)
        yield lambda: method(b"", timeout=PATIENCE), breakers


def without(server: ProgrammedServer) -> Any:
    """No retries."""
    return stub(server, BREAKER)


def ours(server: ProgrammedServer) -> Any:
    """Retries of the method's policy."""
    return stub(server, OURS)


@contextmanager
def ours_aio(server: ProgrammedServer) -> Iterator[tuple[Call, BreakerRegistry]]:
    """The same in asyncio."""
    breakers = BreakerRegistry(default=OURS)
    with asyncio.Runner() as runner:

        async def make() -> Any:
            return grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(breakers, telemetry=False))

        channel = runner.run(make())

        async def call() -> Any:
            return await channel.unary_unary(UNARY_UNARY)(b"", timeout=PATIENCE)

        yield lambda: runner.run(call()), breakers
        runner.run(channel.close())


def native(server: ProgrammedServer) -> Any:
    """Retries of the channel, by its service config."""
    return stub(server, BREAKER, (("grpc.service_config", json.dumps(NATIVE)),))


def inside(server: ProgrammedServer) -> Any:
    """Retries of an interceptor inside the breaker."""
    return stub(server, BREAKER, (), RetryInside())


@contextmanager
def tenacity_around(server: ProgrammedServer) -> Iterator[tuple[Call, BreakerRegistry]]:
    """Tenacity around the call, as one writes it first: whatever is an RPC's error is tried again."""
    import tenacity

    with stub(server, BREAKER) as (call, breakers):
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(grpc.RpcError),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_fixed(0.01),
            reraise=True,
        )
        yield lambda: retrying(call), breakers


WAYS: dict[str, tuple[Callable[[ProgrammedServer], Any], int, int]] = {
    "no retries": (without, 5, 1),
    "ours": (ours, 5, 1),
    "ours, in asyncio": (ours_aio, 5, 1),
    "tenacity around the breaker": (tenacity_around, 5, 1),
    "gRPC's own": (native, 20, 4),
    "an interceptor inside the breaker": (inside, 20, 4),
}
"""Each way to retry; the attempts that reach the server before the breaker keeps all away; and the attempts of one call
during the first of which the breaker opens because of others."""


def storm(way: str) -> tuple[int, dict[str, int]]:
    """Call a sick server again and again; returns the attempts that reached it, and what the breaker counted."""
    with ProgrammedServer(fails("UNAVAILABLE")) as server, WAYS[way][0](server) as (call, breakers):
        for _ in range(CALLS):
            with suppress(grpc.RpcError):
                call()
        return len(server.calls), breakers[UNARY_UNARY].snapshot()["totals"]


def opening_in_the_middle(way: str) -> int:
    """Call a server during whose first answer the breaker opens; returns the attempts that reached it."""
    with ProgrammedServer() as server, WAYS[way][0](server) as (call, breakers):

        def act(request: bytes, context: Any, number: int) -> bytes:
            if number == 1:
                breakers[UNARY_UNARY].force_open()
            return fails("UNAVAILABLE")(request, context, number)  # type: ignore[no-any-return]

        server.act = act
        with suppress(grpc.RpcError):
            call()
        return len(server.calls)


@pytest.mark.parametrize("way", WAYS)
def test_retry_storm(way: str) -> None:
    """Retries around the breaker reach a sick server five times in all, those inside it four times as often; then nothing does."""
    if "tenacity" in way:
        pytest.importorskip("tenacity", reason="tenacity is not installed")
    _, attempts, after_opening = WAYS[way]
    reached, totals = storm(way)
    assert (reached, totals["failure"]) == (attempts, 5)
    assert opening_in_the_middle(way) == after_opening


def main() -> None:
    """Print the figures."""
    print(f"{CALLS} calls of up to {ATTEMPTS} attempts; a breaker that opens at 5 failures in a row\n")
    print("| retries | attempts at the server | refused here | attempts of a call during which it opens |")
    print("|---|---|---|---|")
    for way in WAYS:
        if "tenacity" in way and find_spec("tenacity") is None:
            continue
        reached, totals = storm(way)
        print(f"| {way} | {reached} | {totals['rejected']} | {opening_in_the_middle(way)} |")


if __name__ == "__main__":
    main()
