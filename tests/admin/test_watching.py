"""Watching breakers, on every kind of server: what is sent when, and what a watcher can do to others."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from grpc_breaker import BreakerRegistry, State
from grpc_breaker.admin import add_breaker_admin_servicer
from grpc_breaker.admin.v1 import admin_pb2 as pb
from grpc_breaker.admin.v1.admin_pb2_grpc import BreakerAdminStub
from tests.admin.conftest import fail
from tests.admin.serving import aio_server, listed, refusal
from tests.support.server import PATIENCE

GET, LIST, COUNT = "pricing.v1.Pricing/GetPrice", "pricing.v1.Pricing/ListPrices", "stock.v1.Stock/Count@eu"
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535))
"""Has flow control let no more than 64 kB through to a client that does not read."""
FAST, SLOW = Duration(nanos=200_000_000), Duration(seconds=60)

ROOT = Path(__file__).parents[2]

Serve = Callable[..., Any]


@pytest.fixture
def many() -> BreakerRegistry:
    """A registry whose list is beyond what flow control lets through to a client that does not read."""
    registry = BreakerRegistry(max_breakers=3000)
    for name in (GET, *(f"many.v1.Service{number:04}/{'M' * 100}" for number in range(2000))):
        registry[name].admit().success()
    return registry


def watch(stub: Any, interval: Duration = SLOW, name: str = "", states: tuple[int, ...] = ()) -> Any:
    """A watch, with what it sends: an iterator of responses that waits, but not for ever."""
    request = pb.WatchBreakersRequest(filter=pb.Filter(name=name, states=states), interval=interval)
    return stub.WatchBreakers(request, timeout=PATIENCE)


def news(call: Any) -> Iterator[Any]:
    """The responses that say something."""
    return (it for it in call if it.ByteSize())


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of a process that says nothing by itself."""
    over = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < over
        time.sleep(0.01)


def admin_threads() -> list[threading.Thread]:
    return [it for it in threading.enumerate() if it.name.startswith("grpc_breaker")]


def test_first_all_then_changes_at_once(serve: Serve, breakers: BreakerRegistry) -> None:
    """The first response has the process and all breakers; a change of state comes long before the interval is over."""
    fail(breakers, LIST)
    responses = news(watch(serve(breakers)))
    first = next(responses)
    assert first.process.pid
    assert [it.name for it in first.breakers] == [GET, LIST, COUNT]
    assert not first.changes
    fail(breakers, GET)
    second = next(responses)
    assert not second.HasField("process")
    assert [(it.name, it.state, it.failures) for it in second.breakers] == [(GET, pb.STATE_OPEN, 2)]
    assert [(it.breaker, it.state, it.reason) for it in second.changes] == [(GET, pb.STATE_OPEN, "failure_threshold")]


def test_counts_come_with_the_interval(serve: Serve, breakers: BreakerRegistry) -> None:
    """A breaker whose counts have changed is sent within an interval, and no other."""
    responses = news(watch(serve(breakers), FAST))
    next(responses)
    breakers[LIST].admit().success()
    response = next(responses)
    assert [(it.name, it.successes) for it in response.breakers] == [(LIST, 2)]


def test_a_sign_of_life_in_each_interval(serve: Serve, breakers: BreakerRegistry) -> None:
    """Where nothing changes, empty responses come."""
    responses = watch(serve(breakers), FAST)
    next(responses)
    assert [next(responses).ByteSize() for _ in range(2)] == [0, 0]


def test_new_and_evicted_breakers(serve: Serve) -> None:
    """A breaker that is made is sent, and the name of one that is evicted."""
    breakers = BreakerRegistry(max_breakers=1)
    breakers["a.B/C"].admit().success()
    responses = news(watch(serve(breakers), FAST))
    assert [it.name for it in next(responses).breakers] == ["a.B/C"]
    breakers["a.B/D"].admit().success()
    response = next(responses)
    assert ([it.name for it in response.breakers], list(response.removed)) == (["a.B/D"], ["a.B/C"])


def test_filters_of_a_watch(serve: Serve, breakers: BreakerRegistry) -> None:
    """A watch of open breakers has them come and go, with the changes that do it, and nothing of others."""
    stub = serve(breakers)
    responses = news(watch(stub, states=(pb.STATE_OPEN,), name="pricing.v1.Pricing"))
    assert not next(responses).breakers
    fail(breakers, COUNT)
    fail(breakers, GET)
    response = next(responses)
    assert [it.name for it in response.breakers] == [GET]
    assert [it.breaker for it in response.changes] == [GET]
    breakers[GET].reset()
    response = next(responses)
    assert (list(response.removed), [it.reason for it in response.changes]) == ([GET], ["reset"])
    assert not response.breakers


def test_a_watch_that_a_change_does_not_concern(serve: Serve, breakers: BreakerRegistry) -> None:
    """Who watches one breaker is sent nothing of another one's change."""
    stub = serve(breakers)
    everything, one = news(watch(stub)), watch(stub, name=GET)
    next(everything), next(one)
    for name in (COUNT, LIST):
        fail(breakers, name)
        assert next(everything).changes[0].breaker == name
    time.sleep(0.1)
    fail(breakers, GET)
    assert [it.breaker for it in next(one).changes] == [GET]


def test_an_order_that_replaces_another(serve: Serve, breakers: BreakerRegistry) -> None:
    """A hold that takes the place of another is sent, though no state has changed."""
    breakers[GET].force_open(ttl=60, reason="first")
    responses = news(watch(serve(breakers), FAST))
    next(responses)
    breakers[GET].force_open(ttl=60, reason="second")
    response = next(responses)
    assert ([it.hold.reason for it in response.breakers], list(response.changes)) == (["second"], [])


def test_wrong_watches_are_refused(serve: Serve, breakers: BreakerRegistry) -> None:
    """Interval and filter are checked, and everything wrong is said at once."""
    stub = serve(breakers)
    for interval, got in ((Duration(nanos=100_000_000), "0.1"), (Duration(seconds=61), "61")):
        with pytest.raises(grpc.RpcError) as error:
            next(watch(stub, interval, states=(77,)))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"interval must be from 0.2 s to 60 s, got {got} s" in error.value.details()
        assert "filter.states" in error.value.details()


def test_too_many_watchers_are_refused_at_once(serve: Serve, breakers: BreakerRegistry) -> None:
    """Above `max_watchers` a watch is refused, and a list works; where one leaves, another may come."""
    stub = serve(breakers, max_watchers=2)
    first, second = watch(stub), watch(stub)
    next(first), next(second)
    with pytest.raises(grpc.RpcError) as error:
        next(watch(stub))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.value.details() == "2 watch already, and more are not allowed; ListBreakers works"
    assert len(listed(stub)) == 3
    first.cancel()

    def has_room() -> bool:
        try:
            return bool(next(watch(stub)).breakers)
        except grpc.RpcError:
            return False

    until(has_room)


def test_nothing_is_left_of_watches(serve: Serve, breakers: BreakerRegistry) -> None:
    """Threads and listeners end with the last watch: a process that is not asked pays nothing."""
    stub = serve(breakers)
    calls = [watch(stub, FAST) for _ in range(3)]
    for call in calls:
        next(call)
    for call in calls:
        call.cancel()
    until(lambda: not admin_threads())
    fail(breakers, GET)
    assert breakers[GET].state is State.OPEN


def test_a_watch_that_begins_after_others_have_ended(serve: Serve, breakers: BreakerRegistry) -> None:
    """Who comes later hears of changes at once, too."""
    stub = serve(breakers)
    call = watch(stub)
    next(call)
    call.cancel()
    until(lambda: not admin_threads())
    responses = news(watch(stub))
    next(responses)
    fail(breakers, GET)
    assert next(responses).changes[0].breaker == GET


def test_a_watcher_that_does_not_read_disturbs_nobody(serve: Serve, many: BreakerRegistry) -> None:
    """While one client reads nothing, others are told; it gets what is true when it reads again."""
    stub = serve(many)
    stuck = watch(stub, FAST)  # its first response alone is beyond what flow control lets through
    reading = news(watch(stub, FAST))
    next(reading)
    for _ in range(3):
        for breaker in many:
            breaker.admit().success()
        assert len(next(reading).breakers)
    many.force_open(GET, ttl=60, reason="now")
    for responses in (reading, stuck):
        assert any(it.name == GET and it.hold.reason == "now" for response in responses for it in response.breakers)


@pytest.mark.parametrize("interval", [FAST, SLOW])
def test_watches_end_when_the_server_stops(interval: Duration, breakers: BreakerRegistry) -> None:
    """Stopping the server ends its watches at once; they do not use up the grace of other calls."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    add_breaker_admin_servicer(server, breakers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = watch(BreakerAdminStub(channel), interval)
        next(call)
        assert server.stop(10 * PATIENCE).wait(PATIENCE)
        with pytest.raises(grpc.RpcError) as error:
            list(call)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server stops")


def test_watches_end_when_an_asyncio_server_stops(breakers: BreakerRegistry) -> None:
    """The same on grpc.aio, also for a server that has refused a call before."""
    import asyncio

    with aio_server(breakers) as (server, port, loop), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = BreakerAdminStub(channel)
        assert refusal(stub.Reset, pb.ResetRequest())[0] == "PERMISSION_DENIED"
        call = watch(stub)
        next(call)
        asyncio.run_coroutine_threadsafe(server.stop(10 * PATIENCE), loop).result(PATIENCE)
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"])
def test_a_watcher_that_is_stuck_ends_with_the_server(kind: str, many: BreakerRegistry) -> None:
    """A client that reads nothing does not keep the server from stopping, either; one of asyncio has its grace."""
    import asyncio

    if kind == "grpc":
        server = grpc.server(futures.ThreadPoolExecutor(1))
        add_breaker_admin_servicer(server, many)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}", NARROW) as channel:
            call = watch(BreakerAdminStub(channel), FAST)
            until(lambda: len(admin_threads()) == 2)  # the watcher's and the notifier
            time.sleep(1)
            assert server.stop(10 * PATIENCE).wait(PATIENCE)
            call.cancel()
    else:
        with aio_server(many) as (aio, port, loop), grpc.insecure_channel(f"127.0.0.1:{port}", NARROW) as channel:
            call = watch(BreakerAdminStub(channel), FAST)
            until(lambda: len(admin_threads()) == 1)  # the notifier
            time.sleep(1)
            asyncio.run_coroutine_threadsafe(aio.stop(0.5), loop).result(PATIENCE / 2)  # before the call's own deadline
            call.cancel()


def test_a_watch_does_not_keep_a_process_from_ending() -> None:
    """A program that ends without stopping its server ends, though somebody watches."""
    program = """
import sys
from concurrent import futures
import grpc
from grpc_breaker import BreakerRegistry
from grpc_breaker.admin import add_breaker_admin_servicer
server = grpc.server(futures.ThreadPoolExecutor(1))
add_breaker_admin_servicer(server, BreakerRegistry())
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
            call = watch(BreakerAdminStub(channel))
            next(call)
            process.stdin.close()
            assert process.wait(PATIENCE) == 0
            with pytest.raises(grpc.RpcError):
                list(call)


def test_watches_take_none_of_the_servers_threads(breakers: BreakerRegistry) -> None:
    """All threads of a server may be stuck: its breakers can be listed, held and watched."""
    release, stuck = threading.Event(), threading.Event()

    def hang(_request: bytes, _context: Any) -> bytes:
        stuck.set()
        release.wait(PATIENCE)
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handlers = {"Hang": grpc.unary_unary_rpc_method_handler(hang)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.v1.Shop", handlers),))
    add_breaker_admin_servicer(server, breakers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        hanging = channel.unary_unary("/test.v1.Shop/Hang").future(b"")
        assert stuck.wait(PATIENCE)
        stub = BreakerAdminStub(channel)
        assert len(listed(stub)) == 3
        assert len(next(watch(stub)).breakers) == 3
        assert not hanging.done()
        release.set()
        hanging.result(PATIENCE)
    server.stop(None)


def test_an_interceptor_that_wraps_handlers(breakers: BreakerRegistry) -> None:
    """Where an interceptor takes the service's own threads away, nobody can watch, and lists work."""

    class Wrapping(grpc.ServerInterceptor):  # its handlers have no attributes
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            handler = continuation(details)
            streams = handler.unary_stream is not None
            inner = handler.unary_stream if streams else handler.unary_unary

            def wrapped(request: Any, context: Any) -> Any:
                return inner(request, context)

            make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            return make(wrapped, handler.request_deserializer)

    server = grpc.server(futures.ThreadPoolExecutor(1), interceptors=[Wrapping()])
    add_breaker_admin_servicer(server, breakers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = BreakerAdminStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            next(watch(stub))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "an interceptor of this server" in error.value.details()
        assert len(listed(stub)) == 3
    server.stop(None)


def test_a_flood_of_watchers(serve: Serve, breakers: BreakerRegistry) -> None:
    """Of two hundred who want to watch at once, sixteen may; the others are refused, and calls go on."""
    stub = serve(breakers)
    ended: queue.Queue[str] = queue.Queue()
    calls = [watch(stub) for _ in range(200)]

    def first(call: Any) -> None:
        try:
            next(call)
            ended.put("told")
        except grpc.RpcError as error:
            ended.put(error.code().name)

    with futures.ThreadPoolExecutor(20) as clients:
        list(clients.map(first, calls))
    results = [ended.get(timeout=PATIENCE) for _ in calls]
    assert (results.count("told"), results.count("RESOURCE_EXHAUSTED")) == (16, 184)
    breakers[GET].admit().success()
    for call in calls:
        call.cancel()


def test_a_broken_clock_ends_a_watch(serve: Serve, nothing_logged_yet: Callable[[], None]) -> None:
    """What a user's clock raises ends watches and lists with an error, and leaves nothing behind."""
    broken = False

    def clock() -> float:
        if broken and threading.current_thread().name.startswith("grpc_breaker"):
            raise ZeroDivisionError
        return time.monotonic()

    breakers = BreakerRegistry(clock=clock)
    breakers["a.B/C"].admit().success()
    stub = serve(breakers)
    call = watch(stub, Duration(seconds=1))
    next(call)
    broken = True
    breakers["a.B/C"].force_open(reason="now")
    with pytest.raises(grpc.RpcError):
        list(call)
    until(lambda: not admin_threads())
    broken = False
    assert listed(stub)["a.B/C"].state == pb.STATE_FORCED_OPEN
