"""A process whose system has no more threads: its server goes on, and the admin service comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from grpc_breaker import BreakerRegistry, State
from grpc_breaker.admin.v1 import admin_pb2 as pb
from tests.admin.serving import KINDS, served
from tests.support.server import PATIENCE

METHOD = "pkg.S/M"
SERVICE = "grpc_breaker-admin"
"""The name of the service's threads."""
Allow = Callable[[int | None], None]


@pytest.fixture
def lacked() -> threading.Semaphore:
    """Released each time that a thread of the service cannot be started."""
    return threading.Semaphore(0)


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch, lacked: threading.Semaphore) -> Allow:
    """Allows the service so many more threads; `None` for any number."""
    left: list[int | None] = [None]
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if left[0] is not None and thread.name == SERVICE:
            if not left[0]:
                lacked.release()
                message = "can't start new thread"
                raise RuntimeError(message)
            left[0] -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return lambda number: left.__setitem__(0, number)


@pytest.fixture
def breakers() -> BreakerRegistry:
    breakers = BreakerRegistry()
    breakers.breaker_for(METHOD)
    return breakers


@pytest.mark.parametrize("kind", KINDS)
def test_orders_that_failed_are_not_done_later(
    kind: str, tmp_path: Path, breakers: BreakerRegistry, allow: Allow
) -> None:
    """Calls without a thread fail, more of them than the service has threads; then it works, and none is done later."""
    order = pb.ForceOpenRequest(name=METHOD, reason="no threads")
    order.ttl.FromSeconds(60)
    with served(kind, tmp_path, breakers, allow_changes=True) as stub:
        allow(0)
        for _ in range(6):
            with pytest.raises(grpc.RpcError):
                stub.ForceOpen(order, timeout=0.2)
        allow(None)
        (breaker,) = stub.ListBreakers(pb.ListBreakersRequest(), timeout=PATIENCE).breakers
        assert breaker.state == pb.STATE_CLOSED
        assert stub.ForceOpen(order, timeout=PATIENCE).breakers == [METHOD]
    assert breakers[METHOD].state is State.FORCED_OPEN


@pytest.mark.parametrize(("kind", "threads"), [("grpc", 1), ("grpc", 2), ("socket", 1), ("socket", 2), ("grpc.aio", 0)])
def test_a_watch_without_a_thread_is_refused(
    kind: str, threads: int, tmp_path: Path, breakers: BreakerRegistry, allow: Allow
) -> None:
    """A watch that lacks a thread is refused at once, and its place is free again."""
    with served(kind, tmp_path, breakers, max_watchers=1) as stub:
        allow(threads)
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.WatchBreakers(pb.WatchBreakersRequest(), timeout=PATIENCE))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "can start no thread" in refused.value.details()
        allow(None)
        watch = stub.WatchBreakers(pb.WatchBreakersRequest(), timeout=PATIENCE)
        assert [it.name for it in next(watch).breakers] == [METHOD]
        watch.cancel()


@pytest.mark.parametrize("kind", KINDS)
def test_calls_wait_for_the_threads_there_are(
    kind: str, tmp_path: Path, allow: Allow, lacked: threading.Semaphore
) -> None:
    """While one thread of the service is at work and no other can be started, calls wait for it."""
    at_work, go = threading.Event(), threading.Event()

    def clock() -> float:
        if threading.current_thread().name == SERVICE:
            at_work.set()
            assert go.wait(PATIENCE)
        return time.monotonic()

    breakers = BreakerRegistry(clock=clock)
    breakers.breaker_for(METHOD)
    with served(kind, tmp_path, breakers) as stub:
        calls = [stub.ListBreakers.future(pb.ListBreakersRequest(), timeout=PATIENCE)]
        assert at_work.wait(PATIENCE)
        allow(0)
        for _ in range(3):
            calls.append(stub.ListBreakers.future(pb.ListBreakersRequest(), timeout=PATIENCE))
            assert lacked.acquire(timeout=PATIENCE)
        go.set()
        assert all(call.result().breakers for call in calls)
