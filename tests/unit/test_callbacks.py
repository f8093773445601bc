"""When the done callbacks of refused sync calls are called, and by which thread."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError
from tests.support.child import in_child
from tests.unit.test_adapters import METHOD, Details

PATIENCE = 15.0


@pytest.fixture
def make() -> Callable[[], Any]:
    """Makes refused calls, all of one interceptor."""
    breakers = BreakerRegistry(default=BreakerPolicy())
    breakers[METHOD].force_open()
    interceptor = CircuitBreakerInterceptor(breakers, telemetry=False)
    return lambda: interceptor.intercept_unary_stream(lambda details, request: None, Details(), b"")


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """The thread that calls back ends when nothing waits."""
    yield
    for thread in calling():
        thread.join(PATIENCE)
    assert not calling()


def calling() -> list[threading.Thread]:
    """The threads that call back."""
    return [thread for thread in threading.enumerate() if thread.name == "grpc_breaker callbacks"]


def test_callback_comes_from_another_thread(make: Callable[[], Any]) -> None:
    """A done callback of a refused call is not called inside `add_done_callback`, but by another thread."""
    lock, called = threading.Lock(), queue.SimpleQueue[Any]()

    def callback(ended: Any) -> None:
        with lock:
            called.put((ended, ended.done(), ended.is_active(), ended.running(), threading.current_thread() is here))

    here, call = threading.current_thread(), make()
    with lock:
        call.add_done_callback(callback)
    assert called.get(timeout=PATIENCE) == (call, True, False, False, False)


def test_call_is_active_until_it_is_called_back(make: Callable[[], Any]) -> None:
    """A refused call is active while a done callback waits for its end, and reports that end to every callback."""
    first, release, called = make(), threading.Event(), queue.SimpleQueue[str]()
    first.add_done_callback(lambda ended: release.wait(PATIENCE))
    call = make()
    assert (call.done(), call.running(), call.is_active(), call.add_callback(lambda: None)) == (
        True,
        False,
        False,
        False,
    )
    call.add_done_callback(lambda ended: called.put("first"))
    assert (call.done(), call.running(), call.is_active()) == (False, True, True)
    call.add_done_callback(lambda ended: called.put("second"))
    assert call.add_callback(lambda: called.put("third"))
    release.set()
    assert [called.get(timeout=PATIENCE) for _ in range(3)] == ["first", "second", "third"]
    assert (call.done(), call.running(), call.is_active()) == (True, False, False)


@pytest.mark.parametrize(
    "see",
    [next, lambda call: call.result(), lambda call: call.exception(), lambda call: call.next()],
)
def test_callback_of_a_call_whose_end_was_seen(see: Callable[[Any], Any], make: Callable[[], Any]) -> None:
    """A done callback that is added after the refusal was seen is called at once, and no thread is made."""
    call, called = make(), list[Any]()
    try:
        see(call)
    except CircuitOpenError as error:
        assert error is call
    call.add_done_callback(called.append)
    assert called == [call]
    assert not calling()


def test_callback_of_a_call_that_has_called_back(make: Callable[[], Any]) -> None:
    """A done callback that is added after another one was called is called at once."""
    call, called = make(), threading.Event()
    call.add_done_callback(lambda ended: called.set())
    assert called.wait(PATIENCE)
    here: list[Any] = []
    call.add_done_callback(lambda ended: here.append(threading.current_thread()))
    assert here == [threading.current_thread()]


def test_reader_sees_the_end_no_sooner_than_the_callback(make: Callable[[], Any]) -> None:
    """A reader of a refused call with a done callback gets the refusal when that callback is due."""
    call, called = make(), threading.Event()
    call.add_done_callback(lambda ended: called.set())
    with pytest.raises(CircuitOpenError):
        next(call)
    assert (call.done(), call.is_active()) == (True, False)
    assert called.wait(PATIENCE)


def test_reader_does_not_wait_for_a_callback_that_is_held_up(make: Callable[[], Any]) -> None:
    """A refused call can be read while the callback of another one keeps the thread, and also on that thread."""
    first, release, read = make(), threading.Event(), queue.SimpleQueue[Any]()

    def callback(ended: Any) -> None:
        other = make()
        other.add_done_callback(lambda _: None)
        read.put(other.exception() is other)
        release.wait(PATIENCE)

    first.add_done_callback(callback)
    assert read.get(timeout=PATIENCE)
    call, called = make(), threading.Event()
    call.add_done_callback(lambda ended: called.set())
    assert call.exception() is call
    assert not called.is_set()
    release.set()
    assert called.wait(PATIENCE)


def test_caller_that_reopens_has_few_callbacks_waiting(make: Callable[[], Any]) -> None:
    """A caller that opens a stream again in its callback and where it reads, unless it is active, piles up no callbacks."""
    lock, streams, called = threading.RLock(), list[Any](), list[Any]()

    def open_again() -> None:
        with lock:
            if len(streams) < 300 and not (streams and streams[-1].is_active()):
                streams.append(make())
                streams[-1].add_done_callback(callback)

    def callback(ended: Any) -> None:
        with lock:
            called.append(ended)
            open_again()

    most = 0
    open_again()
    while len(streams) < 300:
        with lock:
            call, most = streams[-1], max(most, len(streams) - len(called))
        with pytest.raises(CircuitOpenError):
            next(call)
        open_again()
    assert most < 30


def test_callback_that_raises(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture, nothing_logged_yet: Callable[[], None]
) -> None:
    """What a done callback raises, be it no `Exception`, is logged once, and the callbacks after it are called."""
    called = threading.Event()
    for error in (ValueError("a bug"), KeyError("another"), SystemExit()):
        make().add_done_callback(lambda ended, error=error: (_ for _ in ()).throw(error))
    make().add_done_callback(lambda ended: called.set())
    assert called.wait(PATIENCE)
    (record,) = [record for record in caplog.records if "done callback" in record.getMessage()]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_one_thread_while_there_are_callbacks(make: Callable[[], Any]) -> None:
    """One thread calls all callbacks, in the order in which they were added; refused calls without any need none."""
    calls = [make() for _ in range(100)]
    assert not calling()
    called, threads = list[int](), set[threading.Thread]()
    last = threading.Event()
    for number, call in enumerate(calls):
        call.add_done_callback(
            lambda ended, number=number: (called.append(number), threads.add(threading.current_thread()))
        )
    calls[-1].add_done_callback(lambda ended: last.set())
    assert last.wait(PATIENCE)
    assert called == list(range(100))
    for thread in threads:
        thread.join(PATIENCE)
    assert not calling()


def test_no_thread_can_be_started(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, the callback is called at once: it must not be lost."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    called: list[Any] = []
    call = make()
    call.add_done_callback(called.append)
    assert called == [call]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_calls_its_own_callbacks(make: Callable[[], Any]) -> None:
    """A forked child calls the callbacks of its own refused calls, and none of its parent's."""
    release, called = threading.Event(), queue.SimpleQueue[str]()
    began = threading.Event()
    make().add_done_callback(lambda ended: (began.set(), release.wait(PATIENCE)))
    assert began.wait(PATIENCE)
    make().add_done_callback(lambda ended: called.put("the parent's"))

    def child() -> list[str]:
        make().add_done_callback(lambda ended: called.put("the child's"))
        names = [called.get(timeout=PATIENCE)]
        for thread in calling():
            thread.join(PATIENCE)
        while not called.empty():
            names.append(called.get())
        return names

    assert in_child(child) == ["the child's"]
    release.set()
    assert called.get(timeout=PATIENCE) == "the parent's"
