"""How processes are watched: real gRPC servers that are watched, polled, lost and found again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker._commands.targets import Target, Targets
from grpc_breaker._web import watcher as watchers_module
from grpc_breaker._web.calls import Calls, plain
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.requests import Order
from grpc_breaker._web.watcher import SILENCE, Watcher
from grpc_breaker._web.watchers import Watchers
from grpc_breaker.admin.v1 import admin_pb2 as pb
from tests.support.server import PATIENCE
from tests.web.conftest import Clock
from tests.web.standin import GET_PRICE, StandIn, breaker


class Watching:
    """The merged state of what is found at some addresses."""

    def __init__(
        self,
        *addresses: str,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.found = list(addresses)
        self.fleet = Fleet(clock)
        self.steady = steady
        self.watchers = Watchers(self.fleet, lambda: [Target(it) for it in self.found], self._make, publish_every=0.02)
        self.calls = Calls(self.fleet, self.watchers.stub)
        self.watchers.start()

    def _make(self, target: Target, fleet: Fleet) -> Watcher:
        return Watcher(target, fleet, pause=0.02, poll_every=0.01, clock=self.steady)

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.fleet.statuses()
            time.sleep(0.005)

    def until_status(self, *statuses: str) -> None:
        self.until(lambda: [it["status"] for it in self.fleet.statuses()] == list(statuses))

    def state(self, name: str = GET_PRICE) -> str:
        return "".join(pb.State.Name(seen.said.state) for _, seen in self.fleet.having(name))


@pytest.fixture
def process() -> Iterator[StandIn]:
    """A process with one breaker."""
    with StandIn(breaker()) as process:
        yield process


@pytest.fixture
def watching(process: StandIn) -> Iterator[Watching]:
    """That process is watched."""
    watching = Watching(process.target)
    watching.until_status("connected")
    yield watching
    watching.watchers.close()


def test_a_change_arrives(process: StandIn, watching: Watching) -> None:
    """What a process pushes is in the merged state."""
    process.push(breaker(state=pb.STATE_OPEN), changed=True)
    watching.until(lambda: watching.state() == "STATE_OPEN")


def test_a_stream_that_ends_is_begun_anew(process: StandIn, watching: Watching) -> None:
    """A process that ends its streams is watched again."""
    assert process.watched.acquire(timeout=PATIENCE)
    process.end_watches()
    assert process.watched.acquire(timeout=PATIENCE)
    watching.until_status("connected")


def test_a_process_that_dies_is_lost_and_found_again(process: StandIn, watching: Watching) -> None:
    """A process that does not answer any more is unreachable, and is watched again once it is back."""
    process.stop()
    watching.until_status("unreachable")
    assert "UNAVAILABLE" in watching.fleet.statuses()[0]["why"]
    with StandIn(breaker(state=pb.STATE_OPEN), port=process.port):
        watching.until(lambda: watching.state() == "STATE_OPEN")
        watching.until_status("connected")


def test_a_silent_process_is_unreachable(process: StandIn) -> None:
    """A stream that says nothing for too long is ended, because a process that was stopped ends none."""
    clock = Clock()
    watching = Watching(process.target, steady=clock)
    watching.until_status("connected")
    clock.now += SILENCE / 2
    watching.watchers.look()
    process.push(breaker(in_flight=1))
    watching.until(lambda: watching.fleet.having(GET_PRICE)[0][1].said.in_flight == 1)
    assert watching.fleet.statuses()[0]["status"] == "connected"
    process.held.clear()
    clock.now += SILENCE + 1
    watching.watchers.look()
    watching.until_status("unreachable")
    assert watching.fleet.statuses()[0]["why"] == "it does not answer"
    process.held.set()
    watching.until_status("connected")
    watching.watchers.close()


def test_a_clock_that_is_set_silences_nobody(process: StandIn) -> None:
    """A stream goes on when the clock of the machine is set on, or the machine has slept."""
    clock = Clock()
    watching = Watching(process.target, clock=clock)
    watching.until_status("connected")
    assert process.watched.acquire(timeout=PATIENCE)
    clock.now += 3600
    watching.watchers.look()
    process.push(breaker(in_flight=1))
    watching.until(lambda: watching.fleet.having(GET_PRICE)[0][1].said.in_flight == 1)
    assert not process.watched.acquire(blocking=False)
    watching.watchers.close()


def test_where_too_many_watch_it_asks(process: StandIn) -> None:
    """A process that refuses a watch is asked again and again, and is said to be polled."""
    process.exhausted = True
    watching = Watching(process.target)
    watching.until(lambda: len(process.asked) > 2)
    process.push(breaker(state=pb.STATE_OPEN))
    watching.until(lambda: watching.state() == "STATE_OPEN")
    assert watching.fleet.statuses()[0]["polled"]
    watching.watchers.close()


def test_a_polled_process_is_watched_when_there_is_room(process: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a number of questions it tries to watch again."""
    monkeypatch.setattr(watchers_module, "POLLS", 2)
    process.exhausted = True
    watching = Watching(process.target)
    watching.until(lambda: watching.fleet.statuses()[0]["polled"])
    process.exhausted = False
    watching.until(lambda: not watching.fleet.statuses()[0]["polled"])
    watching.watchers.close()


def test_a_polled_process_that_dies_is_unreachable(process: StandIn) -> None:
    """One that is polled is lost like any other."""
    process.exhausted = True
    watching = Watching(process.target)
    watching.until_status("connected")
    process.stop()
    watching.until_status("unreachable")
    watching.watchers.close()


def test_processes_of_this_host_come_and_go(process: StandIn, watching: Watching) -> None:
    """A process that is found later is watched, and one that is found no longer is gone; it can come back."""
    with StandIn(breaker("other"), pid=2) as other:
        watching.found.append(other.target)
        watching.watchers.look()
        watching.until_status("connected", "connected")
        watching.found.remove(other.target)
        watching.watchers.look()
        watching.until_status("connected", "gone")
        assert watching.state("other") == ""
        assert watching.fleet.statuses()[1]["why"] == "its socket is gone"
        watching.found.append(other.target)
        watching.until(lambda: watching.watchers.look() or watching.state("other"))


def test_a_folder_that_is_not_to_be_trusted_changes_nothing(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the sockets cannot be looked for any more, what is watched is watched on."""

    def forbidden() -> list[Target]:
        raise PermissionError("its mode is 777")

    monkeypatch.setattr(watching.watchers, "_find", forbidden)
    watching.watchers.look()
    watching.until_status("connected")


def test_a_target_beyond_the_limit_is_not_watched(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the merged state has no room for is left alone."""
    monkeypatch.setattr(watching.fleet, "add", lambda target: False)
    watching.found.append("127.0.0.1:1")
    watching.watchers.look()
    assert watching.watchers.stub("127.0.0.1:1") is None


def test_new_processes_are_looked_for(process: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again every few seconds, by itself."""
    monkeypatch.setattr("grpc_breaker._web.watchers._FIND_EVERY", 0.01)
    watching = Watching()
    watching.found.append(process.target)
    watching.until_status("connected")
    watching.watchers.close()


def test_closing_ends_every_thread(process: StandIn) -> None:
    """Nothing runs on when the page is closed."""
    before = set(threading.enumerate())
    watching = Watching(process.target, "127.0.0.1:1")
    watching.until_status("connected", "unreachable")
    watching.watchers.close()
    ours = [it for it in set(threading.enumerate()) - before if it.name.startswith(("watcher", "publisher", "finder"))]
    for thread in ours:
        thread.join(PATIENCE)
    assert [it for it in ours if it.is_alive()] == []


def test_a_watcher_that_is_stopped_before_it_watches_ends() -> None:
    """One that is stopped before it begins, or in the moment before it watches, watches nothing."""
    with StandIn() as process:
        fleet = Fleet()
        fleet.add(process.target)
        watcher = Watcher(Target(process.target), fleet)
        early = Watcher(Target("127.0.0.1:1"), fleet)
        fleet.add("127.0.0.1:1")
        early.stop("never mind")
        early.start()
        early._thread.join(PATIENCE)
        assert fleet.statuses()[-1]["status"] == "gone"
        answers = iter([False])
        watcher._stopping.is_set = lambda: next(answers, True)  # type: ignore[method-assign]
        watcher.start()
        watcher._thread.join(PATIENCE)
        assert not watcher.running
        assert [it["status"] for it in fleet.statuses()] == ["gone", "gone"]


# Details and orders


def test_a_hold_is_told_for_each_process(process: StandIn, watching: Watching) -> None:
    """Of several processes each says whether it did it: one that is read-only refuses, one that died does not answer."""
    with StandIn(breaker(), pid=2, allow_changes=False) as refusing, StandIn(breaker(), pid=3) as dying:
        watching.found += [refusing.target, dying.target]
        watching.watchers.look()
        watching.until_status("connected", "connected", "connected")
        dying.stop()
        watching.until_status("connected", "connected", "unreachable")
        answers = watching.calls.give(Order("force-open", GET_PRICE, 0.5, "INC-1"))
    assert answers is not None
    assert answers[:2] == [
        {"process": 1, "breakers": [GET_PRICE], "error": ""},
        {"process": 2, "breakers": [], "error": "PERMISSION_DENIED: changes are not allowed"},
    ]
    assert "UNAVAILABLE" in answers[2]["error"]
    assert process.asked[0].ttl.ToMilliseconds() == 500


def test_details_of_a_process_that_does_not_answer_are_its_last_words(process: StandIn, watching: Watching) -> None:
    """Where a process has no answer, what it said last is shown, and why there is no more."""
    process.push(breaker("gone", pb.STATE_OPEN, condition="failure_rate"))
    watching.until(lambda: watching.state("gone"))
    del process.breakers["gone"]
    details = watching.calls.details("gone")
    assert details is not None
    (shown,) = details["processes"]
    assert (shown["state"], shown["condition"], shown["error"]) == (
        "open",
        "failure_rate",
        "NOT_FOUND: no breaker has the name 'gone'",
    )
    assert (shown["last_failures"], shown["policy"], shown["changes"]) == ([], None, [])


def test_a_process_that_is_gone_is_not_asked(process: StandIn, watching: Watching) -> None:
    """Between the question and the answer a process may be gone."""
    calls = Calls(watching.fleet, lambda address: None)
    assert calls.give(Order("reset", GET_PRICE)) == [{"process": 1, "breakers": [], "error": "it is gone"}]


def test_a_channel_that_is_closed_meanwhile_is_gone(process: StandIn, watching: Watching) -> None:
    """A question that is cut off by the end of its channel is answered."""
    process.held.clear()
    closed = threading.Event()
    stub = watching.watchers.stub(process.target)

    def cut_off(address: str) -> Any:
        class Cancelling:
            class GetBreaker:
                @staticmethod
                def future(request: Any, timeout: float) -> Any:
                    call = stub.GetBreaker.future(request, timeout=timeout)
                    call.cancel()
                    closed.set()
                    return call

        return Cancelling

    details = Calls(watching.fleet, cut_off).details(GET_PRICE)
    process.held.set()
    assert details is not None
    assert details["processes"][0]["error"] == "it is gone"


def test_details_are_plain_data() -> None:
    """What a snapshot holds becomes JSON: whole numbers as such, and what JSON cannot say as text."""
    snapshot = pb.GetBreakerResponse().snapshot
    snapshot.update({"a": 1, "b": 0.5, "c": None, "d": [True, "x", {}], "e": float("inf"), "f": float("nan")})
    snapshot.fields["g"].Clear()
    assert plain(snapshot) == {"a": 1, "b": 0.5, "c": None, "d": [True, "x", {}], "e": "inf", "f": "nan", "g": None}


def test_changes_and_times_are_told(process: StandIn, watching: Watching) -> None:
    """Details have the last changes with their times, and the time until the next probe."""
    said = breaker(state=pb.STATE_OPEN)
    process.push(breaker(hold=pb.Hold(reason="INC-1")))
    watching.until(lambda: watching.fleet.having(GET_PRICE)[0][1].hold() == {"reason": "INC-1", "until": None})
    said.since.FromSeconds(900)
    said.retry_after.FromMilliseconds(1500)
    process.breakers[GET_PRICE] = said
    process.changes = [pb.StateChange(previous=pb.STATE_CLOSED, state=pb.STATE_OPEN, reason="failure_rate")]
    process.changes[0].time.FromSeconds(900)
    details = watching.calls.details(GET_PRICE)
    assert details is not None
    (shown,) = details["processes"]
    assert (shown["since"], shown["retry_after"]) == (900, 1.5)
    assert [(it["time"], it["previous"], it["state"], it["reason"]) for it in shown["changes"]] == [
        (900, "closed", "open", "failure_rate")
    ]


def test_targets_of_this_host_are_watched_by_their_sockets(tmp_path: Path) -> None:
    """Without an address the sockets of a folder are watched."""
    assert list(Targets(directory=tmp_path).now()) == []
