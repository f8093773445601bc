"""`grpc-breaker watch`, against real processes that open, stop, die and come."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerRegistry
from grpc_breaker._cli import main
from grpc_breaker.admin import serve_admin
from grpc_breaker.admin.v1 import admin_pb2 as pb
from grpc_breaker.admin.v1.admin_pb2_grpc import (
    BreakerAdminServicer,
    BreakerAdminStub,
    add_BreakerAdminServicer_to_server,
)
from tests.admin.conftest import fail
from tests.admin.shop import Shop, shops
from tests.support.server import PATIENCE

GET, LIST, COUNT = "pricing.v1.Pricing/GetPrice", "pricing.v1.Pricing/ListPrices", "stock.v1.Stock/Count@eu"


class Output(io.StringIO):
    """What the command prints, while it runs."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self.seen = 0

    def isatty(self) -> bool:
        return self._terminal

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until this is printed, behind what was expected before."""
        over = time.monotonic() + PATIENCE
        while (found := re.compile(pattern).search(self.getvalue(), self.seen)) is None:
            assert time.monotonic() < over, (pattern, self.getvalue())
            time.sleep(0.01)
        self.seen = found.end()
        return found


@contextmanager
def watching(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, terminal: bool = False
) -> Iterator[Callable[[Callable[[Output], object]], Output]]:
    """Runs the command while a story goes on in another thread, which ends it by Ctrl-C."""

    def run(story: Callable[[Output], object]) -> Output:
        output, failed = Output(terminal), []
        monkeypatch.setattr(sys, "stdout", output)

        def tell() -> None:
            try:
                story(output)
            except BaseException as error:
                failed.append(error)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=tell)
        thread.start()
        code = main(["watch", "--directory", str(folder), "--interval", "0.2", *arguments])
        thread.join(PATIENCE)
        if failed:
            raise failed[0]
        assert code == 0
        return output

    yield run


def test_changes_as_they_happen(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """What refuses calls is said at first, then each change, with when and why."""
    fail(breakers, LIST)

    def story(output: Output) -> None:
        output.expect(r"watching 3 breakers\n")
        output.expect(
            rf":{os.getpid()}  \d\d:\d\d:\d\d  {LIST}  open  failure_threshold: UNAVAILABLE failed to connect\n"
        )
        fail(breakers, GET)
        output.expect(rf"  {GET}  closed -> open  failure_threshold: UNAVAILABLE failed to connect\n")
        breakers[GET].reset()
        output.expect(rf"  {GET}  open -> closed  reset\n")

    with serve_admin(breakers, directory=folder), watching(monkeypatch, folder) as run:
        output = run(story)
    assert COUNT not in output.getvalue()


def test_filters(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is asked for is shown; a breaker that comes into the filter is."""

    def story(output: Output) -> None:
        output.expect("watching 0 breakers")
        fail(breakers, COUNT)
        fail(breakers, GET)
        output.expect(GET)

    with (
        serve_admin(breakers, directory=folder),
        watching(monkeypatch, folder, "pricing.v1.Pricing", "--state", "open") as run,
    ):
        assert COUNT not in run(story).getvalue()


@pytest.mark.once
def test_processes_that_come_stop_and_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes are found; one that gives no answer is said to be so, and watched again when it does."""
    with shops(folder) as (first,), watching(monkeypatch, folder, "--timeout", "5") as run:

        def story(output: Output) -> None:
            output.expect(rf":{first.pid}  watching 2 breakers")
            with shops(folder) as (second,):
                output.expect(rf":{second.pid}  watching 2 breakers")
                second.fail(GET)
                output.expect(rf":{second.pid}  .*{GET}  closed -> open")
            output.expect(rf":{second.pid}  unreachable: UNAVAILABLE")
            output.expect(rf":{second.pid}  gone")
            first.pause()
            output.expect(rf":{first.pid}  unreachable: no answer in time: stopped, or too busy")
            first.resume()
            output.expect(rf":{first.pid}  watching 2 breakers")

        output = run(story)
    assert output.getvalue().count("unreachable: UNAVAILABLE") == 1


def test_json_lines(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--json` is a document a line: what came, and who gave no answer."""

    def story(output: Output) -> None:
        output.expect('"process"')
        fail(breakers, GET)
        output.expect('"changes": .{2}')
        with shops(folder) as (shop,):
            output.expect(f'"pid": {shop.pid}')
        output.expect('"error"')
        output.expect('"gone"')

    with serve_admin(breakers, directory=folder) as server, watching(monkeypatch, folder, "--json") as run:
        documents = [json.loads(line) for line in run(story).getvalue().splitlines()]
    ours = [it for it in documents if it["target"] == f"unix:{server.path}"]
    assert (ours[0]["process"]["pid"], len(ours[0]["breakers"]), ours[0]["changes"]) == (os.getpid(), 3, [])
    assert [it["state"] for it in ours[1]["breakers"]] == ["open"]
    assert [it["breaker"] for it in ours[1]["changes"]] == [GET]
    assert "process" not in ours[1]
    theirs = [it for it in documents if it not in ours]
    assert [bool(it.get("error")) for it in theirs[-2:]] == [True, False]
    assert theirs[-1]["gone"]


def test_evicted_breakers_leave_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process no longer has is no longer shown."""
    breakers = BreakerRegistry(max_breakers=1)
    breakers["a.B/C"].admit().success()

    def story(output: Output) -> None:
        output.expect("a.B/C")
        breakers["a.B/D"].admit().success()
        output.expect("a.B/D")
        assert "a.B/C" not in output.getvalue()[output.seen :]

    with serve_admin(breakers, directory=folder), watching(monkeypatch, folder, terminal=True) as run:
        run(story)


def test_a_terminal(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal the table stays where it is, with the last changes and what is unreachable below it."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    shop = Shop(folder).ready()

    def story(output: Output) -> None:
        output.expect(r"\x1b\[HSTATE .*")
        fail(breakers, GET)
        output.expect(rf"open.*{GET}")
        output.expect(r"1 of 5 breakers in 2 processes refuses calls")
        output.expect(rf"{GET}  (closed -> )?open  failure_threshold")
        shop.pause()
        output.expect(rf"unix:{shop.path}: no answer in time")
        shop.resume()

    with (
        serve_admin(breakers, directory=folder),
        watching(monkeypatch, folder, "--timeout", "1", terminal=True) as run,
    ):
        output = run(story)
    shop.kill()
    assert "\x1b[J" in output.getvalue()


def test_where_nobody_else_may_watch(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that lets nobody else watch is asked now and then; its changes are seen, too."""

    def story(output: Output) -> None:
        output.expect("watching 3 breakers")
        fail(breakers, GET)
        output.expect(rf"\d\d:\d\d:\d\d  {GET}  closed -> open  failure_threshold: UNAVAILABLE failed to connect")

    with (
        serve_admin(breakers, directory=folder, max_watchers=1) as server,
        grpc.insecure_channel(f"unix:{server.path}") as channel,
    ):
        call: Any = BreakerAdminStub(channel).WatchBreakers(pb.WatchBreakersRequest())
        next(call)
        with watching(monkeypatch, folder) as run:
            run(story)
        call.cancel()


def test_a_process_that_ends_the_watch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends a watch without a word is watched again."""
    asked = []

    class Restless(BreakerAdminServicer):
        def WatchBreakers(self, request: Any, context: Any) -> Iterator[Any]:
            asked.append(request)
            yield pb.WatchBreakersResponse(process=pb.Process(pid=len(asked)))

    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_BreakerAdminServicer_to_server(Restless(), server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    def story(output: Output) -> None:
        output.expect('"pid": 2')

    with watching(monkeypatch, folder, "--target", target, "--json") as run:
        run(story)
    server.stop(None)


def test_a_directory_that_gets_lost(
    folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that is not to be trusted any more is complained of, and what is watched is watched on."""

    def story(output: Output) -> None:
        output.expect("watching 3 breakers")
        folder.chmod(0o777)
        over = time.monotonic() + PATIENCE
        while "not to be trusted" not in capsys.readouterr().err:
            assert time.monotonic() < over
            time.sleep(0.05)
        fail(breakers, GET)
        output.expect(rf"{GET}  closed -> open")

    with serve_admin(breakers, directory=folder), watching(monkeypatch, folder) as run:
        run(story)
