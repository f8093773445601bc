"""What a `TrafficRecorder` writes, in which files, and what becomes of it when something is in its way."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    EndedCall,
    MethodPolicy,
    Outcome,
    RateLimit,
    Throttle,
    __version__,
)
from grpc_breaker.replay import TrafficRecorder
from grpc_breaker.testing import FakeClock
from tests.support.child import in_child

METHOD = "pricing.v1.Pricing/GetPrice"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock() -> FakeClock:
    """The breakers' clock."""
    return FakeClock(1000.0)


@pytest.fixture
def breakers(clock: FakeClock) -> BreakerRegistry:
    """One failure opens for ten seconds."""
    policy = BreakerPolicy(consecutive_failures=1, half_open_max_calls=1, reset_timeout=10, reset_timeout_jitter=0)
    return BreakerRegistry(default=policy, clock=clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file."""
    return tmp_path / "traffic.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    text = path.read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def recorded(
    breakers: BreakerRegistry | CircuitBreaker, path: Path, calls: Callable[[], object]
) -> list[dict[str, Any]]:
    """What is recorded of calls, without the header, and with times from when recording began."""
    with TrafficRecorder(breakers, path):
        calls()
    header, *lines = lines_of(path)
    return [{**it, "time": pytest.approx(it["time"] - header["started"], abs=2e-6)} for it in lines]


# ── Lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_header(breakers: BreakerRegistry, path: Path) -> None:
    """A file begins with who recorded it, and when."""
    before = time.time()
    with TrafficRecorder(breakers, path):
        pass
    (header,) = lines_of(path)
    assert before - 1e-6 <= header.pop("started") <= time.time() + 1e-6
    assert header == {
        "grpc_breaker_traffic": 1,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
    }


def test_call(breakers: BreakerRegistry, clock: FakeClock, path: Path) -> None:
    """A call is a line with its method, when it began, how long it took, its status, and the seconds it had."""

    def calls() -> None:
        clock.advance(2)
        permit = breakers[METHOD].admit(METHOD, timeout=1.5)
        clock.advance(0.25)
        permit.success()

    (line,) = recorded(breakers, path, calls)
    assert line == {"time": 2, "method": METHOD, "duration": 0.25, "status": "OK", "deadline": 1.5}


def test_wall_clock_that_is_set(
    breakers: BreakerRegistry, clock: FakeClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wall clock that is set meanwhile bends no time."""

    def calls() -> None:
        breakers[METHOD].admit(METHOD).success()
        monkeypatch.setattr(time, "time", lambda: 0.0)
        clock.advance(1)
        breakers[METHOD].admit(METHOD).success()

    assert [line["time"] for line in recorded(breakers, path, calls)] == [0, 1]


def test_target_and_stream(breakers: BreakerRegistry, path: Path) -> None:
    """A line says at which target a call was made, and whether it streamed."""
    (line,) = recorded(breakers, path, lambda: breakers[METHOD, "eu"].admit(METHOD, timed=False).success())
    assert line == {"time": 0, "method": METHOD, "duration": 0, "status": "OK", "target": "eu", "stream": True}


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        (Outcome.SUCCESS, "OK", None),
        (Outcome.SUCCESS, "NOT_FOUND", None),
        (Outcome.FAILURE, "NOT_FOUND", "failure"),
        (Outcome.FAILURE, "UNAVAILABLE", None),
        (Outcome.IGNORED, "UNAVAILABLE", "ignored"),
        (Outcome.FAILURE, "TimeoutError", "failure"),
        (Outcome.IGNORED, "KeyboardInterrupt", "ignored"),
    ],
)
def test_outcome(outcome: Outcome, status: str, expected: str | None, breakers: BreakerRegistry, path: Path) -> None:
    """The outcome is there where the breaker was told another one than the status says."""
    (line, *_) = recorded(breakers, path, lambda: breakers[METHOD].admit(METHOD).settle(outcome, status))
    line = line if "status" in line else _[0]  # after the change of state that it caused
    assert (line["status"], line.get("outcome")) == (status, expected)


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [("success", "OK", None), ("failure", "UNKNOWN", None), ("ignored", "CANCELLED", "ignored")],
)
def test_outcome_without_a_status(
    outcome: str, status: str, expected: str | None, breakers: BreakerRegistry, path: Path
) -> None:
    """A call that ended without a status is recorded with one that says as much, given as text, too."""
    given: Any = outcome
    lines = recorded(breakers, path, lambda: breakers[METHOD].admit(METHOD).settle(given))
    assert [(it["status"], it.get("outcome")) for it in lines if "status" in it] == [(status, expected)]


@pytest.mark.parametrize(
    ("status", "details", "expected"),
    [
        ("UNAVAILABLE", "the shop is closed", None),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer 10.0.0.7", "Connection reset"),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: ipv4:10.0.0.7:1: Broken pipe",
            "failed to connect to all addresses; Broken pipe",
        ),
        ("UNAVAILABLE", "Cancelling all calls of 10.0.0.7", "Cancelling all calls"),
        ("CANCELLED", "perAttemptRecvTimeout exceeded", "perAttemptRecvTimeout exceeded"),
        ("DATA_LOSS", "Connection reset", None),
        ("ConnectionError", "Connection reset", None),
    ],
)
def test_details(status: str, details: str, expected: str | None, breakers: BreakerRegistry, path: Path) -> None:
    """Of the details nothing is recorded but words of grpcio's own that change how a failure counts."""
    lines = recorded(breakers, path, lambda: breakers[METHOD].admit(METHOD).failure(status, details))
    assert [line.get("details") for line in lines if "method" in line] == [expected]


def test_outcome_that_the_policy_says(path: Path) -> None:
    """What the breaker's policy says of a status is left out: another policy may say something else of it."""
    breaker = CircuitBreaker("it", BreakerPolicy(verdicts={"NOT_FOUND": Outcome.FAILURE}))
    lines = recorded(breaker, path, lambda: breaker.admit().settle(Outcome.FAILURE, "NOT_FOUND"))
    assert ["outcome" in line for line in lines] == [False]


def test_short_deadline(breakers: BreakerRegistry, path: Path) -> None:
    """That a deadline was too short to say anything follows from the line."""
    breaker = CircuitBreaker("it", BreakerPolicy(minimum_deadline=0.5), clock=(clock := FakeClock()))

    def calls() -> None:
        permit = breaker.admit(timeout=0.01)
        clock.advance(0.01)
        permit.settle(Outcome.IGNORED, "DEADLINE_EXCEEDED")

    (line,) = recorded(breaker, path, calls)
    assert (line["status"], line["deadline"], line.get("outcome")) == ("DEADLINE_EXCEEDED", 0.01, None)


def test_stream_that_was_answered(breakers: BreakerRegistry, path: Path) -> None:
    """A stream that had an answer before its caller dropped it is a success, as it was counted."""

    def calls() -> None:
        permit = breakers[METHOD].admit(METHOD, timed=False)
        permit.answered()
        permit.settle(Outcome.IGNORED, "CANCELLED")

    (line,) = recorded(breakers, path, calls)
    assert (line["status"], line["outcome"]) == ("CANCELLED", "success")


def test_long_stream_that_a_classifier_calls_a_failure(breakers: BreakerRegistry, clock: FakeClock, path: Path) -> None:
    """What gRPC's statuses would ignore, since it lasted long and was lost with its connection, is recorded as counted."""

    def calls() -> None:
        permit = breakers[METHOD].admit(METHOD, timed=False)
        clock.advance(60)
        permit.failure("UNAVAILABLE", "Socket closed")

    (line,) = (it for it in recorded(breakers, path, calls) if "method" in it)
    assert (line["details"], line["outcome"]) == ("Socket closed", "failure")


def test_probe(breakers: BreakerRegistry, clock: FakeClock, path: Path) -> None:
    """A probe is a call like others, with the seconds that it had; the changes of state are lines, too."""

    def calls() -> None:
        breakers[METHOD].admit(METHOD).failure("UNAVAILABLE")
        clock.advance(10)
        probe = breakers[METHOD].admit(METHOD, timeout=100)
        assert (probe.success(), probe.failure()) == (True, False)

    assert recorded(breakers, path, calls) == [
        {"time": 0, "change": "open", "breaker": METHOD, "reason": "consecutive_failures"},
        {"time": 0, "method": METHOD, "duration": 0, "status": "UNAVAILABLE"},
        {"time": 10, "change": "half_open", "breaker": METHOD, "reason": "reset_timeout"},
        {"time": 10, "change": "closed", "breaker": METHOD, "reason": "probes_succeeded"},
        {"time": 10, "method": METHOD, "duration": 0, "status": "OK", "deadline": 100},
    ]


@pytest.mark.parametrize(
    ("refused", "status", "policy"),
    [
        ("breaker", "UNAVAILABLE", MethodPolicy(breaker=BreakerPolicy(consecutive_failures=2))),
        ("bulkhead", "UNAVAILABLE", MethodPolicy(max_concurrent_calls=1)),
        ("rate", "RESOURCE_EXHAUSTED", MethodPolicy(rate_limit=RateLimit(0.001, burst=3))),
        ("throttle", "UNAVAILABLE", MethodPolicy(throttle=Throttle(minimum_calls=1))),
    ],
)
def test_refusal(refused: str, status: str, policy: MethodPolicy, path: Path) -> None:
    """A call that was refused says by what, and what its caller saw."""
    breakers = BreakerRegistry(default=policy, clock=FakeClock(), random=lambda: 0.0)

    def calls() -> None:
        breaker = breakers[METHOD, "eu"]
        for _ in range(2):
            breaker.admit(METHOD).failure("UNAVAILABLE")
        breaker.try_admit(METHOD)  # in flight
        breaker.try_admit(METHOD)

    line = recorded(breakers, path, calls)[-1]
    expected = {"time": 0, "method": METHOD, "duration": 0, "status": status, "target": "eu", "refused": refused}
    assert line == expected


def test_refusal_that_is_not_enforced(path: Path) -> None:
    """On trial a call that would be refused is made, and recorded once, with its own end."""
    breaker = CircuitBreaker("it", BreakerPolicy(consecutive_failures=1, enforcement_percentage=0))

    def calls() -> None:
        breaker.admit().failure("UNAVAILABLE")
        breaker.admit().success()

    lines = recorded(breaker, path, calls)
    assert [(it.get("change"), it.get("status"), it.get("refused")) for it in lines] == [
        ("open", None, None),
        (None, "UNAVAILABLE", None),
        (None, "OK", None),
    ]


def test_decorated_functions(path: Path) -> None:
    """Calls of decorated functions and coroutine functions have the breaker's name, and the exception's as status."""
    breaker = CircuitBreaker("geocoding", BreakerPolicy(consecutive_failures=9))

    @breaker
    def ratio(number: int) -> float:
        return 1 / number

    @breaker
    async def root(number: int) -> float:
        return ratio(number)

    def calls() -> None:
        for number in (1, 0):
            with pytest.raises(ZeroDivisionError):
                asyncio.run(root(number))
                ratio(0)

    lines = recorded(breaker, path, calls)
    assert {it["method"] for it in lines} == {"geocoding"}
    assert [(it["status"], it.get("outcome")) for it in lines] == [
        *[("OK", None)] * 2,
        *[("ZeroDivisionError", "failure")] * 3,
    ]


def test_classified_call(path: Path) -> None:
    """What a classifier made of a call is there where its status says something else."""

    def classify(call: EndedCall) -> Outcome | None:
        return Outcome.FAILURE if call.result == "bad" else None

    breaker = CircuitBreaker("it", BreakerPolicy(classify=classify))
    lines = recorded(breaker, path, lambda: [breaker(str)("bad"), breaker(str)("good")])
    assert [(it["status"], it.get("outcome")) for it in lines] == [("str", "failure"), ("OK", None)]


def test_names_of_any_kind(breakers: BreakerRegistry, path: Path) -> None:
    """A method's name may hold what it likes: each call is one line."""
    odd = 'a"b\n\ud800/\u2028'
    lines = recorded(breakers, path, lambda: breakers[METHOD].admit(odd).success())
    assert [line["method"] for line in lines] == [odd]


@pytest.mark.parametrize("name", ["/", " ", "//"])
def test_call_without_a_name(name: str, path: Path) -> None:
    """A method without a name, which gRPC allows, is recorded with one: a record has no call without a method."""
    breaker = CircuitBreaker(name, BreakerPolicy(consecutive_failures=1))

    def calls() -> None:
        breaker.admit(name).failure("UNAVAILABLE")
        breaker.try_admit(name)

    assert [it["method"] for it in recorded(breaker, path, calls) if "method" in it] == ["unnamed", "unnamed"]


def test_many_names(path: Path) -> None:
    """Ten thousand names and more do no harm."""
    breaker = CircuitBreaker("it")
    lines = recorded(breaker, path, lambda: [breaker.admit(str(n)).success() for n in range(12_000)])
    kept = [line["method"] for line in lines if "method" in line]
    missing = sum(line.get("dropped", 0) for line in lines)
    assert len(kept) + missing == 12_000
    assert len(set(kept)) == len(kept)


def test_status_that_cannot_be_printed(breakers: BreakerRegistry, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A status of the caller's own that cannot be printed costs its line, and no other one."""

    class Odd(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise LookupError

    breaker = breakers[METHOD]

    def calls() -> None:
        breaker.admit(METHOD).settle(Outcome.SUCCESS, Odd("OK"))
        breaker.admit(METHOD).success()

    lines = recorded(breakers, path, calls)
    assert [line.get("status", line.get("dropped")) for line in lines] == ["OK", 1]
    assert "a call could not be recorded" in caplog.text


# ── Beginning and ending ──────────────────────────────────────────────────────────────────────────────────────────


def test_calls_in_flight(breakers: BreakerRegistry, path: Path) -> None:
    """Calls are recorded that begin and end while it records, of breakers there were and of new ones."""
    there = breakers[METHOD]
    before = there.admit("before")
    with TrafficRecorder(breakers, path) as recorder:
        within, across = there.admit("within"), there.admit("across")
        for permit in (before, within, breakers["pkg.S/New"].admit("new")):
            permit.success()
        assert repr(recorder) == f"<TrafficRecorder {str(path)!r}: recording, 0 dropped>"
    across.success()
    there.admit("after").success()
    assert [line.get("method") for line in lines_of(path)[1:]] == ["within", "new"]
    assert there.in_flight == 0
    assert repr(recorder) == f"<TrafficRecorder {str(path)!r}: idle, 0 dropped>"


def test_call_that_is_settled_twice(breakers: BreakerRegistry, path: Path) -> None:
    """A call is recorded once, with how it was settled first."""

    def calls() -> None:
        permit = breakers[METHOD].admit(METHOD)
        assert (permit.success(), permit.failure(), permit.ignore()) == (True, False, False)

    assert [line["status"] for line in recorded(breakers, path, calls)] == ["OK"]


def story_of_failures(how: dict[str, Any], path: Path | None) -> list[Any]:
    """What becomes of a breaker whose calls fail in one way, first two at once, then probes; recorded or not."""
    clock = FakeClock()
    breaker = CircuitBreaker("it", BreakerPolicy(consecutive_failures=2, reset_timeout_jitter=0), clock=clock)
    with nullcontext() if path is None else TrafficRecorder(breaker, path):
        for permit in [breaker.admit(), breaker.admit()]:
            permit.settle(Outcome.FAILURE, "UNAVAILABLE", **how)
        for _ in range(5):
            clock.advance(breaker.retry_after or 0)
            breaker.admit().settle(Outcome.FAILURE, "UNAVAILABLE", **how)
    changes = [
        (it.state, it.status, it.details, it.failures, it.retry_after, it.last_failures) for it in breaker.changes
    ]
    return [changes, breaker.snapshot()["totals"], breaker.snapshot()["last_failures"]]


def test_streams_that_were_answered_and_cut_together(path: Path) -> None:
    """What the answers of streams made of their ends is in the record: one failure, and the others ignored."""
    breaker = CircuitBreaker("it", clock=(clock := FakeClock()))

    def calls() -> None:
        streams = [breaker.admit(timed=False) for _ in range(4)]
        for stream in streams:
            stream.answered()
        clock.advance(1)
        for stream in streams:
            stream.settle(Outcome.FAILURE, "UNAVAILABLE", incident=0, counts_once=True)

    lines = recorded(breaker, path, calls)
    assert [line.get("outcome") for line in lines] == [None, "ignored", "ignored", "ignored"]
    assert breaker.tallies() == {("failure", "UNAVAILABLE"): 1, ("ignored", "UNAVAILABLE"): 3}


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"details": "no route"},
        {"incident": 0.0},
        {"incident": 0.25},
        {"incident": 0.25, "counts_once": True},
        {"unreached": True},
        {"pushback": 30.0},
    ],
    ids=str,
)
def test_recording_changes_nothing(how: dict[str, Any], path: Path) -> None:
    """A failure counts the same whether or not it is recorded, in whichever way it is settled."""
    assert story_of_failures(how, path) == story_of_failures(how, None)


def test_recorded_call_whose_clock_broke(path: Path) -> None:
    """A recorded call is given back, and recorded with no duration, also where the breaker's clock raises by then."""
    broken = False

    def clock() -> float:
        if broken:
            raise LookupError
        return 5.0

    breaker = CircuitBreaker("it", clock=clock)
    with TrafficRecorder(breaker, path):
        permit = breaker.admit("it")
        broken = True
        assert permit.ignore()
        broken = False
    assert breaker.in_flight == 0
    assert [line["duration"] for line in lines_of(path)[1:]] == [0]


def test_call_that_ends_after_its_lease(breakers: BreakerRegistry, clock: FakeClock, path: Path) -> None:
    """A call that was given up is recorded when it ends after all."""

    def calls() -> None:
        permit = breakers[METHOD].admit(METHOD, timeout=1)
        clock.advance(60)
        assert breakers[METHOD].in_flight == 0
        permit.failure("DEADLINE_EXCEEDED")

    assert [line["duration"] for line in recorded(breakers, path, calls)] == [60]


def test_two_recorders(breakers: BreakerRegistry, tmp_path: Path) -> None:
    """Two recorders record the same calls, each while it runs."""
    one, two = tmp_path / "one", tmp_path / "two"
    with TrafficRecorder(breakers, one):
        breakers[METHOD].admit("first").success()
        with TrafficRecorder(breakers, two):
            breakers[METHOD].admit("second").success()
        breakers[METHOD].admit("third").success()
    assert [it["method"] for it in lines_of(one)[1:]] == ["first", "second", "third"]
    assert [it["method"] for it in lines_of(two)[1:]] == ["second"]


def test_reconfigured_meanwhile(breakers: BreakerRegistry, path: Path) -> None:
    """Another policy that is put in force does not end recording."""

    def calls() -> None:
        breakers[METHOD].reconfigure(BreakerPolicy())
        breakers.reconfigure(default=MethodPolicy(max_concurrent_calls=5))
        breakers[METHOD].admit(METHOD).success()

    assert len(recorded(breakers, path, calls)) == 1


def test_started_and_stopped_again(breakers: BreakerRegistry, path: Path) -> None:
    """A recorder may be started again: what it wrote before is kept beside. Stopping twice does nothing."""
    recorder = TrafficRecorder(breakers, path)
    recorder.stop()
    for name in ("first", "second"):
        recorder.start()
        breakers[METHOD].admit(name).success()
        recorder.stop()
        recorder.stop()
    assert recorder.path == path
    assert [line.get("method") for line in lines_of(path)] == [None, "second"]
    assert [line.get("method") for line in lines_of(path.with_name("traffic.jsonl.1"))] == [None, "first"]


def test_started_twice(breakers: BreakerRegistry, path: Path) -> None:
    """A recorder that records cannot be started."""
    with TrafficRecorder(breakers, path) as recorder, pytest.raises(RuntimeError, match=r"recording already.*traffic"):
        recorder.start()


def test_recorded_at_exit(tmp_path: Path) -> None:
    """What a process has recorded is written when it exits without stopping its recorder."""
    program = f"""
from grpc_breaker import CircuitBreaker
from grpc_breaker.replay import TrafficRecorder
breaker = CircuitBreaker("it")
TrafficRecorder(breaker, {str(tmp_path / "exit")!r}).start()
breaker.admit().success()
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    assert [line.get("status") for line in lines_of(tmp_path / "exit")] == [None, "OK"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child(breakers: BreakerRegistry, tmp_path: Path) -> None:
    """A child records nothing into its parent's file, and may start a recorder of its own."""
    one, two = tmp_path / "parent", tmp_path / "child"
    with TrafficRecorder(breakers, one, queue=1) as recorder:
        inherited = breakers[METHOD].admit("parent")

        def child() -> list[Any]:
            assert repr(recorder).endswith(": idle, 0 dropped>")
            for _ in range(3):
                breakers[METHOD].admit("child, not recorded").success()
            assert recorder.dropped == 0
            recorder.stop()
            with TrafficRecorder(breakers, two):
                breakers[METHOD].admit("child").success()
            recorder.stop()
            return [line.get("method") for line in lines_of(two)]

        assert in_child(child) == [None, "child"]
        inherited.success()
    assert [line.get("method") for line in lines_of(one)] == [None, "parent"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_of_a_recorder_that_nobody_keeps(tmp_path: Path) -> None:
    """A child closes its parent's file also where the program kept no reference to the recorder."""
    program = f"""
import gc, os
from grpc_breaker import CircuitBreaker
from grpc_breaker.replay import TrafficRecorder
from tests.support.child import in_child

def closed():
    try:
        os.fstat(last)
    except OSError:
        return True
    return False

breaker = CircuitBreaker("it")
last = os.open(os.devnull, os.O_RDONLY)
os.close(last)  # the recorder's file has this number next
TrafficRecorder(breaker, {str(tmp_path / "lost")!r}).start()
gc.collect()
assert not closed()
assert in_child(closed)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, cwd=ROOT)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def files_in(folder: Path) -> dict[str, int]:
    """The sizes of the files in a folder."""
    return {it.name: it.stat().st_size for it in folder.iterdir()}


def test_rotation(breakers: BreakerRegistry, path: Path) -> None:
    """A full file makes room for the next; so many before it are kept, each with a header and whole lines."""
    with TrafficRecorder(breakers, path, max_bytes=10_000, backups=2):
        for n in range(500):
            breakers[METHOD].admit(f"{METHOD}{n}").success()
    sizes = files_in(path.parent)
    assert sorted(sizes) == ["traffic.jsonl", "traffic.jsonl.1", "traffic.jsonl.2"]
    assert all(size <= 10_000 for size in sizes.values())
    assert sizes["traffic.jsonl.1"] > 9_000 < sizes["traffic.jsonl.2"]
    names: list[str] = []
    for name in sorted(sizes, reverse=True):
        header, *lines = lines_of(path.with_name(name))
        assert header["grpc_breaker_traffic"] == 1
        names += [line["method"] for line in lines]
    assert names == [f"{METHOD}{n}" for n in range(500 - len(names), 500)]


def test_file_that_is_there(breakers: BreakerRegistry, path: Path) -> None:
    """A file that is there already is kept beside; an empty one is taken."""
    path.write_text("precious\n")
    with TrafficRecorder(breakers, path):
        pass
    assert path.with_name("traffic.jsonl.1").read_text() == "precious\n"
    path.write_text("")
    with TrafficRecorder(breakers, path):
        pass
    assert sorted(files_in(path.parent)) == ["traffic.jsonl", "traffic.jsonl.1"]
    assert len(lines_of(path)) == 1


def test_line_that_no_file_can_hold(breakers: BreakerRegistry, path: Path) -> None:
    """A line that is longer than a file may be is dropped, and the next one is written."""

    def calls() -> None:
        breakers[METHOD].admit("x" * 20_000).success()
        breakers[METHOD].admit("short").success()

    with TrafficRecorder(breakers, path, max_bytes=10_000) as recorder:
        calls()
    assert [line.get("method", line.get("dropped")) for line in lines_of(path)[1:]] == ["short", 1]
    assert recorder.dropped == 1


def test_full_queue(breakers: BreakerRegistry, path: Path) -> None:
    """Calls that find the queue full are dropped and counted, in a line, too."""
    with TrafficRecorder(breakers, path, queue=2) as recorder:
        for _ in range(1000):
            breakers[METHOD].admit(METHOD).success()
    lines = lines_of(path)[1:]
    assert recorder.dropped == sum(line.get("dropped", 0) for line in lines) > 0
    assert sum("method" in line for line in lines) + recorder.dropped == 1000


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a moment that comes."""
    give_up = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < give_up
        threading.Event().wait(0.005)


def test_folder_that_is_away(breakers: BreakerRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without its folder a recorder drops calls, says so once, and goes on when the folder is back."""
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.mkdir()
    path = folder / "traffic.jsonl"

    def call(times: int) -> None:
        for _ in range(times):
            breakers[METHOD].admit(METHOD).success()

    with TrafficRecorder(breakers, path, max_bytes=10_000) as recorder:
        folder.rename(away)
        call(200)
        wait_until(lambda: recorder.dropped > 0)
        call(1)
        wait_until(lambda: recorder.dropped > 1 or "could not be written" in caplog.text)
        folder.mkdir()
        dropped = recorder.dropped
        call(1)
        wait_until(lambda: path.exists() and "dropped" in path.read_text())
    header, *lines = lines_of(path)
    assert header["grpc_breaker_traffic"] == 1
    assert sum(line.get("dropped", 0) for line in lines) == recorder.dropped >= dropped
    assert caplog.text.count("could not be written") == 1
    assert len(lines_of(away / "traffic.jsonl")) - 1 + sum("method" in it for it in lines) + recorder.dropped == 202


def test_stopped_without_its_folder(breakers: BreakerRegistry, tmp_path: Path) -> None:
    """A recorder whose folder is away counts what it cannot write, and can be stopped."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with TrafficRecorder(breakers, folder / "traffic.jsonl", max_bytes=10_000) as recorder:
        folder.rename(tmp_path / "away")
        for _ in range(200):
            breakers[METHOD].admit(METHOD).success()
    assert recorder.dropped > 0


def test_full_disk(
    breakers: BreakerRegistry, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full in the middle of a line leaves whole lines, and what comes when it has room is recorded."""
    room, write = [1 << 30], os.write

    def writes(file: int, data: bytes) -> int:
        part = data[: room[0]]
        if not part:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(part)
        return write(file, part)

    monkeypatch.setattr(os, "write", writes)
    with TrafficRecorder(breakers, path) as recorder:
        room[0] = 50
        breakers[METHOD].admit("first").success()
        wait_until(lambda: recorder.dropped == 1)
        room[0] = 1 << 30
        breakers[METHOD].admit("second").success()
    assert [line.get("method", line.get("dropped")) for line in lines_of(path)[1:]] == ["second", 1]
    assert caplog.text.count("could not be written") == 1


def test_clock_that_breaks(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A clock of the application's that raises is logged once, and recording goes on when it works again."""

    class Clock(FakeClock):
        broken = False

        def __call__(self) -> float:
            if self.broken:
                raise LookupError
            return super().__call__()

    breaker = CircuitBreaker("it", clock=(clock := Clock()))
    with TrafficRecorder(breaker, path, max_bytes=10_000) as recorder:

        def is_logged() -> bool:
            clock.broken = False
            for _ in range(200):  # more than a file may hold: the next one needs the time
                breaker.admit().success()
            clock.broken = True
            threading.Event().wait(0.15)
            return "could not be written" in caplog.text

        wait_until(is_logged)
        clock.broken = False
        breaker.admit("at last").success()
    assert recorder.dropped > 0
    assert "at last" in [line.get("method") for line in lines_of(path)]
    assert caplog.text.count("could not be written") == 1


def test_full_disk_from_the_start(breakers: BreakerRegistry, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be begun is an error of `start`, and nothing is recorded."""

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = TrafficRecorder(breakers, path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            recorder.start()
    breakers[METHOD].admit("before").success()
    with recorder:
        breakers[METHOD].admit("after").success()
    assert [line.get("method") for line in lines_of(path)] == [None, "after"]


@pytest.mark.parametrize("name", ["missing/traffic", "."])
def test_path_that_cannot_be_written(name: str, breakers: BreakerRegistry, tmp_path: Path) -> None:
    """A folder that is not there, and a path that is no file, are errors of `start` with the path in them."""
    recorder = TrafficRecorder(breakers, tmp_path / name)
    with pytest.raises(OSError, match=str(tmp_path)):
        recorder.start()
    breakers[METHOD].admit(METHOD).success()
    assert recorder.dropped == 0


# ── Arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"breakers": "all"}, "breakers must be a BreakerRegistry or a CircuitBreaker, got 'all'"),
        ({"path": ""}, "TrafficRecorder path must be the path of a file, got ''"),
        ({"path": 3}, "TrafficRecorder path must be the path of a file, got 3"),
        ({"max_bytes": 9_999}, "TrafficRecorder max_bytes must be an integer, 10000 or more, got 9999"),
        ({"max_bytes": 1e6}, "TrafficRecorder max_bytes must be an integer, 10000 or more, got 1000000.0"),
        ({"backups": 0}, "TrafficRecorder backups must be an integer, from 1 to 1000, got 0"),
        ({"backups": 1001}, "TrafficRecorder backups must be an integer, from 1 to 1000, got 1001"),
        ({"queue": 0}, "TrafficRecorder queue must be an integer, 1 or more, got 0"),
        ({"queue": True}, "TrafficRecorder queue must be an integer, 1 or more, got True"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str, breakers: BreakerRegistry, path: Path) -> None:
    """An argument that is wrong is named, with what is allowed."""
    with pytest.raises((TypeError, ValueError)) as caught:
        TrafficRecorder(**{"breakers": breakers, "path": path, **arguments})
    assert str(caught.value) == words


def test_breaker_of_a_registry(breakers: BreakerRegistry, path: Path) -> None:
    """A breaker of a registry cannot be recorded alone."""
    with pytest.raises(ValueError, match="is a breaker of a registry; record the registry"):
        TrafficRecorder(breakers[METHOD], path)


def test_thread_that_cannot_be_started(breakers: BreakerRegistry, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, `start` says so, and nothing is recorded."""

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    recorder = TrafficRecorder(breakers, path)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            recorder.start()
    breakers[METHOD].admit("before").success()
    with recorder:
        pass
    assert [line.get("method") for line in lines_of(path)] == [None]
