"""Recording the traffic of a process over the admin service, on every kind of server; and `grpc-breaker record`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from grpc_breaker import BreakerRegistry
from grpc_breaker._cli import main
from grpc_breaker.admin import serve_admin
from grpc_breaker.admin.v1 import admin_pb2 as pb
from grpc_breaker.testing import FakeClock
from tests.admin.conftest import fail
from tests.admin.serving import aio_server, refusal
from tests.admin.shop import shops
from tests.support.server import PATIENCE

GET, LIST, COUNT = "pricing.v1.Pricing/GetPrice", "pricing.v1.Pricing/ListPrices", "stock.v1.Stock/Count@eu"

Serve = Callable[..., Any]


def record(stub: Any, name: str = "", seconds: int = 60, **fields: Any) -> Any:
    """A record, with the responses that come."""
    request = pb.RecordTrafficRequest(filter=pb.Filter(name=name), duration=Duration(seconds=seconds), **fields)
    return stub.RecordTraffic(request, timeout=PATIENCE)


def lines_of(response: Any) -> list[dict[str, Any]]:
    """The lines of a response."""
    return [json.loads(line) for line in response.lines]


def lines_after_header(responses: Any) -> list[dict[str, Any]]:
    """All lines that come but the header."""
    return [line for response in responses for line in lines_of(response) if "host" not in line]


def test_record(serve: Serve, breakers: BreakerRegistry) -> None:
    """The header comes first, then the calls of the breakers that the name means, refusals and changes, until so many came."""
    responses = record(serve(breakers), "pricing.v1.Pricing", max_calls=4)
    (header,) = lines_of(next(responses))
    assert (header["grpc_breaker_traffic"], header["pid"]) == (1, os.getpid())
    breakers[COUNT].admit("stock.v1.Stock/Count").success()
    breakers[GET].admit(GET).success()
    fail(breakers, LIST)
    breakers[LIST].try_admit(LIST)
    fail(breakers, COUNT)
    breakers[COUNT].try_admit("stock.v1.Stock/Count")
    lines = lines_after_header(responses)
    assert [(it.get("method"), it.get("status"), it.get("change")) for it in lines] == [
        (GET, "OK", None),
        (LIST, "UNAVAILABLE", None),
        (None, None, "open"),
        (LIST, "UNAVAILABLE", None),
        (LIST, "UNAVAILABLE", None),
    ]
    assert lines[-1]["refused"] == "breaker"
    assert responses.code() is grpc.StatusCode.OK


def test_two_records(serve: Serve, breakers: BreakerRegistry) -> None:
    """Of two who record, each is sent what it asked for."""
    stub = serve(breakers)
    prices, stock = record(stub, "pricing.v1.Pricing", max_calls=1), record(stub, "@eu", max_calls=1)
    next(prices)
    next(stock)
    breakers[COUNT].admit("stock.v1.Stock/Count").success()
    breakers[GET].admit(GET).success()
    assert [(it["method"], it.get("target")) for it in lines_after_header(prices)] == [(GET, None)]
    assert [(it["method"], it.get("target")) for it in lines_after_header(stock)] == [("stock.v1.Stock/Count", "eu")]


def test_record_ends_with_its_time(serve: Serve, breakers: BreakerRegistry) -> None:
    """A record ends by itself, well; until then empty responses are signs of life."""
    responses = list(record(serve(breakers), seconds=1))
    assert len(responses) > 2
    assert not lines_after_header(responses)


def test_records_count_as_watchers(serve: Serve, breakers: BreakerRegistry) -> None:
    """Who records takes the place of one who watches, and gives it back."""
    stub = serve(breakers, max_watchers=1)
    first = record(stub)
    next(first)
    with pytest.raises(grpc.RpcError) as error:
        next(record(stub))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()
    over = time.monotonic() + PATIENCE
    while True:
        try:
            next(record(stub))
            break
        except grpc.RpcError:
            assert time.monotonic() < over


def test_wrong_records_are_refused(serve: Serve, breakers: BreakerRegistry) -> None:
    """Everything that is wrong with a request is said at once."""
    stub = serve(breakers)
    request = pb.RecordTrafficRequest(filter=pb.Filter(name="pkg.S/M@no good", states=[pb.STATE_OPEN]), max_calls=-1)
    request.duration.seconds = 90_000
    code, details = refusal(lambda it, timeout: list(stub.RecordTraffic(it, timeout=timeout)), request)
    assert code == "INVALID_ARGUMENT"
    for words in (
        "filter.name: ",
        "filter.states must be empty",
        "duration must be from 1 s to 86400 s, got 90000 s",
        "max_calls must be 1 or more, got -1",
    ):
        assert words in details


def test_long_lines_are_dropped(serve: Serve, breakers: BreakerRegistry) -> None:
    """A call whose name is too long for a line is dropped and counted, in a line, too; the defaults are a minute and all."""
    responses = serve(breakers).RecordTraffic(pb.RecordTrafficRequest(), timeout=PATIENCE)
    next(responses)
    breakers[GET].admit("x" * 20_000).success()
    response = next(it for it in responses if it.lines)
    assert (response.dropped, lines_of(response)[0]["dropped"]) == (1, 1)
    responses.cancel()


def test_a_server_that_stops_ends_records(breakers: BreakerRegistry) -> None:
    """A server that stops tells those who record so, and does not wait for them."""
    with aio_server(breakers) as (server, port, loop), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        import asyncio

        from grpc_breaker.admin.v1.admin_pb2_grpc import BreakerAdminStub

        responses = record(BreakerAdminStub(channel))
        next(responses)
        asyncio.run_coroutine_threadsafe(server.stop(60), loop).result(PATIENCE)
        with pytest.raises(grpc.RpcError) as error:
            list(responses)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_clock_that_is_broken(serve: Serve, breakers: BreakerRegistry) -> None:
    """Where the breakers' clock raises, the record is an error, and nobody's place is taken."""

    class Clock(FakeClock):
        broken = False

        def __call__(self) -> float:
            if self.broken:
                raise LookupError
            return super().__call__()

    clock = Clock()
    stub = serve(BreakerRegistry(clock=clock), max_watchers=1)
    clock.broken = True
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as error:
            next(record(stub))
        assert error.value.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
    clock.broken = False
    assert next(record(stub)).lines


# ── The command ───────────────────────────────────────────────────────────────────────────────────────────────────


def calling(
    breakers: BreakerRegistry, file: Callable[[], Path | None], story: Callable[[], object]
) -> threading.Thread:
    """Waits in a thread until a file is begun, then makes calls."""

    def run() -> None:
        over = time.monotonic() + PATIENCE
        while not ((path := file()) and path.exists() and path.read_text()):
            assert time.monotonic() < over
            time.sleep(0.01)
        story()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_command(folder: Path, tmp_path: Path, breakers: BreakerRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """The calls of a process are in the file, which can be played again."""
    output = tmp_path / "traffic.jsonl"
    with serve_admin(breakers, directory=folder):
        thread = calling(breakers, lambda: output, lambda: [breakers[GET].admit(GET).success() for _ in range(3)])
        code = main(
            ["record", "pricing.v1.Pricing", "--output", str(output), "--max-calls", "3", "--directory", str(folder)]
        )
        thread.join(PATIENCE)
    assert (code, capsys.readouterr().out) == (0, f"{output}: 3 calls\n")
    assert [line.get("method") for line in read(output)] == [None, GET, GET, GET]


def test_command_that_is_interrupted(
    folder: Path, tmp_path: Path, breakers: BreakerRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends a record with what came by then, also with what was dropped."""
    output = tmp_path / "traffic.jsonl"

    def story() -> None:
        breakers[GET].admit(GET).success()
        breakers[GET].admit("x" * 20_000).success()
        over = time.monotonic() + PATIENCE
        while "dropped" not in output.read_text():
            assert time.monotonic() < over
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with serve_admin(breakers, directory=folder):
        thread = calling(breakers, lambda: output, story)
        code = main(["record", "--for", "1h", "--output", str(output), "--directory", str(folder)])
        thread.join(PATIENCE)
    assert (code, capsys.readouterr().out) == (0, f"{output}: 1 call, 1 dropped\n")


def test_command_with_several_processes(
    folder: Path, tmp_path: Path, breakers: BreakerRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each process has a file of its own, named by its host and id; one that cannot be asked is said to be so."""
    with serve_admin(breakers, directory=folder) as serving:
        arguments = ["--for", "1s", "--target", f"unix:{serving.path}", "--target", f"unix:{folder / 'gone.sock'}"]
        code = main(["record", "--output", str(tmp_path / "traffic.jsonl"), *arguments])
    (file,) = tmp_path.iterdir()
    assert file.name.endswith(f"-{os.getpid()}.jsonl")
    said = capsys.readouterr()
    assert (code, said.out) == (3, f"{file}: 0 calls\n")
    assert f"unix:{folder / 'gone.sock'}: UNAVAILABLE" in said.err


def test_command_with_a_file_that_is_there(
    folder: Path, tmp_path: Path, breakers: BreakerRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there is never written over."""
    output = tmp_path / "precious"
    output.write_text("precious")
    with serve_admin(breakers, directory=folder):
        assert main(["record", "--output", str(output), "--directory", str(folder)]) == 2
    assert "exists already; name a new file" in capsys.readouterr().err
    assert output.read_text() == "precious"


def test_command_without_a_folder(
    folder: Path, tmp_path: Path, breakers: BreakerRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be written is said to be so."""
    output = tmp_path / "missing" / "traffic.jsonl"
    with serve_admin(breakers, directory=folder):
        assert main(["record", "--output", str(output), "--directory", str(folder)]) == 3
    assert f"{output}: No such file or directory" in capsys.readouterr().err


def test_command_with_a_wrong_name(
    folder: Path, tmp_path: Path, breakers: BreakerRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is none is the caller's mistake, and no file is made."""
    with serve_admin(breakers, directory=folder):
        assert main(["record", "pkg.S/M@no good", "--output", str(tmp_path / "file"), "--directory", str(folder)]) == 2
    assert "filter.name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_with_a_process_that_is_stopped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that gives no answer any more is given up; what it said by then is in the file."""
    output = tmp_path / "traffic.jsonl"
    with shops(folder) as (shop,):
        thread = calling(BreakerRegistry(), lambda: output, shop.pause)
        code = main(["record", "--for", "1h", "--output", str(output), "--directory", str(folder), "--timeout", "0.5"])
        thread.join(PATIENCE)
        shop.resume()
    said = capsys.readouterr()
    assert (code, said.out) == (3, f"{output}: 0 calls\n")
    assert "no answer in time: stopped, or too busy" in said.err


@pytest.mark.parametrize("wrong", [["--for", "2d"], ["--for", "soon"], ["--max-calls", "0"], ["--max-calls", "many"]])
def test_command_called_wrongly(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A time that is too long or none, and a number that is none, are named."""
    with pytest.raises(SystemExit) as ended:
        main(["record", "--output", str(tmp_path / "file"), *wrong])
    assert ended.value.code == 2
    assert f"not {wrong[1]!r}" in capsys.readouterr().err
