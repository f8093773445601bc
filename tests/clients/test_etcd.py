"""A guarded client of etcd, sync and asyncio: calls, a watch and a lease, while etcd hangs, is killed, and comes back.

The client does what a client of one's own would do: it repeats calls that failed, opens streams again where they
ended, and waits as long as a refusal says. Policies are the default one.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, State, aio
from tests.clients.support.etcd import ETCD, GRANT, KEEP_ALIVE, MESSAGES, PUT, RANGE, WATCH, Etcd, method
from tests.support.server import PATIENCE

pytestmark = [
    pytest.mark.skipif(ETCD is None, reason="etcd is not installed"),
    pytest.mark.timeout(120),
]

DEADLINE = 0.3
RECOVERY = 4 * PATIENCE


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """A running etcd."""
    server = Etcd(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def breakers() -> BreakerRegistry:
    """Breakers with the default policy."""
    return BreakerRegistry()


def message(name: str, **fields: Any) -> Any:
    """A message of etcd."""
    return MESSAGES[name](**fields)


def pause_of(error: grpc.RpcError) -> float:
    """How long a client waits before it tries again."""
    refused = CircuitOpenError.find(error)
    return 0.05 + ((refused.retry_after or 0.0) if refused is not None else 0.0)


def opened(breakers: BreakerRegistry, name: str) -> threading.Event:
    """An event that is set when a method's breaker opens."""
    event = threading.Event()
    breakers[name].on_state_change(lambda change: event.set() if change.state is State.OPEN else None)
    return event


def until(succeeds: Callable[[], Any], *, while_: Callable[[], bool] = lambda: True) -> Any:
    """Repeat a call until it succeeds, or the condition ends."""
    end = time.monotonic() + RECOVERY
    while while_():
        assert time.monotonic() < end
        try:
            return succeeds()
        except grpc.RpcError as error:
            time.sleep(pause_of(error))
    return None


def test_etcd_that_hangs(etcd: Etcd, breakers: BreakerRegistry) -> None:
    """While etcd is suspended its calls open the breaker and are refused; afterwards they work, and the lease lives on."""
    with grpc.insecure_channel(etcd.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))
        put, read = method(channel, PUT), method(channel, RANGE)
        lease = method(channel, GRANT)(message("LeaseGrantRequest", TTL=60), timeout=PATIENCE).ID
        put(message("PutRequest", key=b"tea", value=b"3", lease=lease), timeout=PATIENCE)
        hung = opened(breakers, RANGE)
        etcd.pause()
        until(lambda: read(message("RangeRequest", key=b"tea"), timeout=DEADLINE), while_=lambda: not hung.is_set())
        with pytest.raises(CircuitOpenError):
            read(message("RangeRequest", key=b"tea"), timeout=DEADLINE)
        etcd.resume()
        found = until(lambda: read(message("RangeRequest", key=b"tea"), timeout=PATIENCE))
        assert [(it.value, it.lease) for it in found.kvs] == [(b"3", lease)]
        alive = method(channel, KEEP_ALIVE)(iter([message("LeaseKeepAliveRequest", ID=lease)]), timeout=PATIENCE)
        assert next(alive).TTL == 60


class Requests:
    """The requests of a stream that stays open: one, and then none until the stream is cancelled."""

    def __init__(self, request: Any) -> None:
        self.over = threading.Event()
        self._requests = [request]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._requests:
            return self._requests.pop()
        self.over.wait(RECOVERY)
        raise StopIteration


def watch(channel: Any, values: queue.SimpleQueue[Any], stop: threading.Event) -> None:
    """Put what is written to a key into a queue, and watch again where the stream ends."""
    revision = 1
    while not stop.is_set():
        requests = Requests(message("WatchRequest", create_request={"key": b"tea", "start_revision": revision}))
        try:
            for response in method(channel, WATCH)(requests):
                for event in response.events:
                    revision = event.kv.mod_revision + 1
                    values.put(event.kv.value)
        except grpc.RpcError as error:
            stop.wait(pause_of(error))
        finally:
            requests.over.set()


def test_etcd_that_is_killed(etcd: Etcd, breakers: BreakerRegistry) -> None:
    """A watch whose etcd is killed is refused meanwhile, and shows what is written once etcd is there again."""
    values: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop, dead = threading.Event(), opened(breakers, WATCH)
    with grpc.insecure_channel(etcd.target) as bare:
        channel = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False))
        watching = threading.Thread(target=watch, args=(channel, values, stop))
        watching.start()
        put = method(channel, PUT)
        put(message("PutRequest", key=b"tea", value=b"before"), timeout=PATIENCE)
        assert values.get(timeout=PATIENCE) == b"before"
        etcd.kill()
        assert dead.wait(RECOVERY)
        etcd.start()
        until(lambda: put(message("PutRequest", key=b"tea", value=b"after"), timeout=PATIENCE))
        assert values.get(timeout=RECOVERY) == b"after"
        stop.set()
    watching.join(PATIENCE)  # closing the channel ends the stream
    assert not watching.is_alive()


async def until_in_asyncio(succeeds: Callable[[], Any], *, while_: Callable[[], bool] = lambda: True) -> Any:
    """Repeat a call until it succeeds, or the condition ends."""
    end = time.monotonic() + RECOVERY
    while while_():
        assert time.monotonic() < end
        try:
            return await succeeds()
        except grpc.RpcError as error:
            await asyncio.sleep(pause_of(error))
    return None


def test_etcd_that_hangs_in_asyncio(etcd: Etcd, breakers: BreakerRegistry) -> None:
    """The same in asyncio: refused while etcd is suspended, served afterwards, and the lease lives on."""

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(etcd.target, interceptors=interceptors) as channel:
            read = method(channel, RANGE)
            lease = (await method(channel, GRANT)(message("LeaseGrantRequest", TTL=60), timeout=PATIENCE)).ID
            request = message("RangeRequest", key=b"tea")
            await read(request, timeout=PATIENCE)
            hung = opened(breakers, RANGE)
            etcd.pause()
            await until_in_asyncio(lambda: read(request, timeout=DEADLINE), while_=lambda: not hung.is_set())
            with pytest.raises(CircuitOpenError):
                await read(request, timeout=DEADLINE)
            etcd.resume()
            await until_in_asyncio(lambda: read(request, timeout=PATIENCE))
            alive = method(channel, KEEP_ALIVE)(timeout=PATIENCE)
            await alive.write(message("LeaseKeepAliveRequest", ID=lease))
            assert (await alive.read()).TTL == 60
            alive.cancel()

    asyncio.run(story())


async def watched(channel: Any) -> AsyncIterator[bytes]:
    """What is written to a key, watched again where the stream ends."""
    revision = 1
    while True:
        stream = method(channel, WATCH)()
        try:
            await stream.write(message("WatchRequest", create_request={"key": b"tea", "start_revision": revision}))
            async for response in stream:
                for event in response.events:
                    revision = event.kv.mod_revision + 1
                    yield event.kv.value
        except asyncio.InvalidStateError:  # it has ended before it was written to: why is the stream's status
            await asyncio.sleep(0.05)
        except grpc.RpcError as error:
            await asyncio.sleep(pause_of(error))
        finally:
            stream.cancel()


def test_etcd_that_is_killed_in_asyncio(etcd: Etcd, breakers: BreakerRegistry) -> None:
    """The same in asyncio: a watch is refused while etcd is dead, and shows what is written afterwards."""

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(etcd.target, interceptors=interceptors) as channel:
            put, values, dead = method(channel, PUT), watched(channel), opened(breakers, WATCH)
            await put(message("PutRequest", key=b"tea", value=b"before"), timeout=PATIENCE)
            assert await asyncio.wait_for(anext(values), PATIENCE) == b"before"
            after = asyncio.create_task(anext(values))
            etcd.kill()
            assert await asyncio.to_thread(dead.wait, RECOVERY)
            await asyncio.to_thread(etcd.start)
            await until_in_asyncio(lambda: put(message("PutRequest", key=b"tea", value=b"after"), timeout=PATIENCE))
            assert await asyncio.wait_for(after, RECOVERY) == b"after"
            await values.aclose()

    asyncio.run(story())
