"""The command, asking processes that say what none of this version would: those of other versions, and those that lie."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from grpc_breaker._cli import main
from grpc_breaker.admin.v1 import admin_pb2 as pb
from tests.admin.test_watch_command import Output, watching
from tests.support.server import PATIENCE
from tests.web.standin import GET_PRICE, StandIn, breaker

EVIL = "\x1b[31m\x07\u202eevil\n"
WRITTEN = r"\x1b[31m\x07\u202eevil\n"
NEWER: Any = 17


class Recorded(StandIn):
    """A process whose record is what a test says."""

    responses: tuple[pb.RecordTrafficResponse, ...] = ()

    def RecordTraffic(self, request: Any, context: Any) -> Iterator[pb.RecordTrafficResponse]:
        """Send it."""
        yield from self.responses


class Talking(StandIn):
    """A process that sends a lot, as fast as it is read."""

    def __init__(self, *breakers: pb.Breaker) -> None:
        super().__init__(*breakers)
        self.said_all = threading.Event()

    def WatchBreakers(self, request: Any, context: Any) -> Iterator[pb.WatchBreakersResponse]:
        """Send it."""
        yield pb.WatchBreakersResponse(process=self.about)
        for number in range(300):
            yield pb.WatchBreakersResponse(breakers=[breaker(f"a.B/{number}", condition="x" * 100_000)])
        self.said_all.set()
        while context.is_active():
            yield pb.WatchBreakersResponse()
            time.sleep(0.05)


class Paused(Output):
    """A terminal that takes nothing after its first line until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(terminal=False)
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        """Take it."""
        if self.getvalue():
            assert self.go_on.wait(PATIENCE)
        return super().write(text)


def state_change(**fields: Any) -> pb.StateChange:
    """A change of state."""
    return pb.StateChange(**{"breaker": GET_PRICE, "previous": pb.STATE_CLOSED, "state": pb.STATE_OPEN, **fields})


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command for a process: its exit code, its output, and what it complains of."""

    def run(process: StandIn, *arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--target", process.target])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("arguments", [("list",), ("get", GET_PRICE)])
def test_no_text_of_a_process_reaches_the_terminal_as_it_is(run: Run, arguments: tuple[str, ...]) -> None:
    """Whatever a process says is written out where it would move the cursor, or be another line: not only names."""
    failure = pb.Failure(status=EVIL, details=EVIL)
    said = breaker(EVIL, pb.STATE_OPEN, condition=EVIL, last_failure=failure)
    with StandIn(said, program=EVIL, host=EVIL, version=EVIL) as process:
        process.breakers[GET_PRICE] = said
        process.changes = [state_change(breaker=EVIL, method=EVIL, reason=EVIL, status=EVIL, details=EVIL)]
        process.snapshot = {"last_failures": [{"status": EVIL, "details": EVIL}], "policy": {"name": EVIL}}
        code, out, _ = run(process, *arguments)
    assert code == 0
    assert WRITTEN in out
    assert out.replace("\n", "").isprintable()


def test_a_program_may_have_any_name(folder: Path) -> None:
    """The name of a program is written out, too."""
    from grpc_breaker._commands.asking import process_name
    from grpc_breaker._commands.targets import Target

    process = pb.Process(program=EVIL, pid=7)
    assert process_name(Target(f"unix:{folder}/7.sock"), process) == f"{WRITTEN}:7"


def test_states_of_a_newer_version(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that this version has no word for is unknown, and keeps nobody from seeing the others."""
    with StandIn(breaker(state=NEWER), breaker("a.B/C", pb.STATE_OPEN)) as process:
        process.changes = [state_change(previous=NEWER, state=NEWER)]
        _, out, _ = run(process, "list")
        assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["open", "a.B/C"], ["unknown", GET_PRICE]]
        assert "state      unknown" in run(process, "get", GET_PRICE)[1]
        assert "unknown -> unknown" in run(process, "get", GET_PRICE)[1]
        document = json.loads(run(process, "get", GET_PRICE, "--json")[1])["processes"][0]
        assert document["breaker"]["state"] == document["changes"][0]["previous"] == "unknown"
        with watching(monkeypatch, folder, "--target", process.target, terminal=True) as watch:
            watch(lambda output: output.expect(r"unknown(?:\x1b\[0m)? +pricing"))


def test_an_output_that_waits_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a terminal is paused, processes are not read either, and are not taken for silent when it goes on."""
    output = Paused()
    monkeypatch.setattr(sys, "stdout", output)
    with Talking(breaker()) as process:
        waited: list[bool] = []

        def story() -> None:
            waited.append(not process.said_all.wait(2.5))
            output.go_on.set()
            waited.append(process.said_all.wait(2 * PATIENCE))
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=story)
        thread.start()
        code = main(["watch", "--json", "--target", process.target, "--interval", "0.2", "--timeout", "1"])
        thread.join(PATIENCE)
    assert code == 0
    assert waited == [True, True]
    assert "no answer in time" not in output.getvalue()


@pytest.mark.parametrize("seconds", [-1, 10**15])
def test_times_that_are_none(run: Run, seconds: int) -> None:
    """A time that no clock has is shown as none."""
    time = Timestamp(seconds=seconds, nanos=5)
    said = breaker(state=pb.STATE_OPEN, since=time, retry_after=Duration(seconds=seconds))
    with StandIn(said) as process:
        process.about.started.CopyFrom(time)
        process.changes = [state_change(time=time)]
        assert run(process, "list")[0] == 0
        assert "closed -> open" in run(process, "get", GET_PRICE)[1]
        document = json.loads(run(process, "get", GET_PRICE, "--json")[1])["processes"][0]
    assert document["started"] is document["breaker"]["since"] is document["changes"][0]["time"] is None


def test_a_snapshot_of_another_version(run: Run) -> None:
    """What a snapshot does not have is not shown."""
    with StandIn(breaker()) as process:
        code, out, _ = run(process, "get", GET_PRICE)
    assert code == 0
    assert "? failures in a row" in out
    assert "policy" not in out


@pytest.mark.parametrize("lines", [None, [], ["no JSON"], ["[" * 100_000], ["[]"], ['{"host": "shop-1"}']])
def test_what_is_no_record(run: Run, tmp_path: Path, lines: list[str] | None) -> None:
    """A process that sends something else than a record is named, and the file is not made."""
    with Recorded(breaker()) as process, Recorded(breaker()) as other:
        if lines is not None:
            process.responses = other.responses = (pb.RecordTrafficResponse(lines=lines),)
        more = ("--for", "1s", "--output", str(tmp_path / "traffic.jsonl"), "--target", other.target)
        code, out, complaints = run(process, "record", *more)
    assert (code, out) == (3, "")
    assert complaints.splitlines() == [
        f"grpc-breaker: {it.target}: what it sends is no record of traffic" for it in (other, process)
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "\udcff"),
        ("record", "\udcff", "--output", "traffic.jsonl"),
        ("get", "\udcff"),
        ("reset", "\udcff"),
        ("disable", GET_PRICE, "--for", "1m", "--reason", "\udcff"),
        ("list", "--target", "\udcff:1"),
        ("list", "--tls", "--server-name", "\udcff"),
    ],
)
def test_arguments_that_are_no_unicode(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be sent is refused, with what it was."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--target", "127.0.0.1:1"])
    assert ended.value.code == 2
    assert r"a text in the encoding of the terminal, not '\udcff" in capsys.readouterr().err
