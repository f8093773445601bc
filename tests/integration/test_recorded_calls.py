"""What is recorded of real calls: all four kinds, however they are called and however they end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, MethodPolicy, RetryPolicy, aio
from grpc_breaker.replay import TrafficRecorder
from tests.integration.test_abandoned import call_with, start, start_aio
from tests.integration.test_strangers import KINDS, use, use_aio
from tests.support.server import METHODS, PATIENCE, Server

Lines = list[dict[str, Any]]


def lines_of(path: Path) -> Lines:
    """The lines of a record, without its header."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]


def recorded(target: str, breakers: BreakerRegistry, path: Path, calls: Callable[[Any], object], many: int) -> Lines:
    """What is recorded of so many calls on a channel of `grpc`."""
    with grpc.insecure_channel(target) as channel, TrafficRecorder(breakers, path):
        calls(grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False)))
        await_lines(path, many)
    return lines_of(path)


def await_lines(path: Path, many: int) -> None:
    """Wait until so many calls are in a record: the application may see the end of a call before its breaker does."""
    give_up = time.monotonic() + PATIENCE
    while len(lines_of(path)) < many:
        assert time.monotonic() < give_up, path.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_sync_calls(kind: str, server: Server, tmp_path: Path) -> None:
    """A call that ends well and one that fails are lines with their statuses and deadlines; streams say that they are."""

    def calls(channel: Any) -> None:
        for script in ("messages 2", "error NOT_FOUND nothing"):
            with contextlib.suppress(grpc.RpcError):
                use(start(channel, kind, call_with(server, script)[1]), kind)

    lines = recorded(server.target, BreakerRegistry(), tmp_path / "traffic", calls, 2)
    assert [it["status"] for it in lines] == ["OK", "NOT_FOUND"]
    assert {it["method"] for it in lines} == {METHODS[kind].removeprefix("/")}
    assert {it.get("stream", False) for it in lines} == {kind != "uu"}
    assert all(it["duration"] > 0 and it["deadline"] > 1 for it in lines)


@pytest.mark.parametrize("kind", KINDS)
def test_aio_calls(kind: str, server: Server, tmp_path: Path) -> None:
    """The same in asyncio."""
    breakers, path = BreakerRegistry(), tmp_path / "traffic"

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            for script in ("messages 2", "error NOT_FOUND nothing"):
                with contextlib.suppress(grpc.RpcError):
                    await use_aio(start_aio(channel, kind, call_with(server, script)[1]), kind)

    with TrafficRecorder(breakers, path):
        asyncio.run(story())
        await_lines(path, 2)
    lines = lines_of(path)
    assert [it["status"] for it in lines] == ["OK", "NOT_FOUND"]
    assert {it.get("stream", False) for it in lines} == {kind != "uu"}
    assert all(it["duration"] > 0 and it["deadline"] > 1 for it in lines)


def test_cancelled_call(server: Server, tmp_path: Path) -> None:
    """A call that its caller cancels is ignored, which its status alone does not say."""

    def calls(channel: Any) -> None:
        future = channel.unary_unary(METHODS["uu"]).future(b"hang", timeout=PATIENCE)
        future.cancel()

    (line,) = recorded(server.target, BreakerRegistry(), tmp_path / "traffic", calls, 1)
    assert (line["status"], line["outcome"]) == ("CANCELLED", "ignored")


def test_refused_call(server: Server, tmp_path: Path) -> None:
    """A call that is refused is a line with what its caller saw."""
    breakers = BreakerRegistry()
    breakers[METHODS["uu"]].force_open()

    def calls(channel: Any) -> None:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(METHODS["uu"])(b"ok", timeout=PATIENCE)

    (line,) = recorded(server.target, breakers, tmp_path / "traffic", calls, 1)
    assert (line["status"], line["refused"], line["duration"]) == ("UNAVAILABLE", "breaker", 0)


def test_retried_call(server: Server, tmp_path: Path) -> None:
    """Each attempt of a call is a line, with the deadline of an attempt."""
    retry = RetryPolicy(max_attempts=2, initial_backoff=0.01, retryable_status_codes=["UNAVAILABLE"])
    breakers = BreakerRegistry(default=MethodPolicy(retry=retry, attempt_timeout=5.0))

    def calls(channel: Any) -> None:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(METHODS["uu"])(b"error UNAVAILABLE ill", timeout=PATIENCE)

    lines = recorded(server.target, breakers, tmp_path / "traffic", calls, 2)
    assert [it["status"] for it in lines] == ["UNAVAILABLE", "UNAVAILABLE"]
    assert all(it["deadline"] == pytest.approx(5.0, abs=0.01) for it in lines)


def test_server_that_is_not_there(tmp_path: Path) -> None:
    """That no server was reached is recorded in words of grpcio's own, without an address."""
    with Server() as server:
        target = server.target

    def calls(channel: Any) -> None:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(METHODS["uu"])(b"ok", timeout=PATIENCE)

    (line,) = recorded(target, BreakerRegistry(), tmp_path / "traffic", calls, 1)
    assert (line["status"], line["details"][:34]) == ("UNAVAILABLE", "failed to connect to all addresses")
    assert target.rpartition(":")[2] not in line["details"]
