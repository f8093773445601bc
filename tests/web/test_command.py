"""The command `grpc-breaker web`: what it prints, when it ends, and what it cannot begin with."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from grpc_breaker._commands import web
from tests.support.server import PATIENCE
from tests.web.standin import StandIn, breaker


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    web.add_to(parser.add_subparsers())
    return parser.parse_args(["web", *arguments])


class Operator:
    """Opens the page, looks at it, and ends the command with Ctrl-C."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.seen = ""

    def __call__(self, address: str) -> None:
        self.opened.append(address)
        threading.Thread(target=self._look).start()

    def _look(self) -> None:
        try:
            with urllib.request.urlopen(self.opened[0].partition("#")[0], timeout=PATIENCE) as response:
                self.seen = response.read().decode()
        finally:
            os.kill(os.getpid(), signal.SIGINT)


def test_it_serves_until_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the address with its token, opens it, serves the page, and ends with 0."""
    operator = Operator()
    with StandIn(breaker()) as process:
        assert (
            parse("--port=0", f"--target={process.target}").run(
                parse("--port=0", f"--target={process.target}"), operator
            )
            == 0
        )
    printed = capsys.readouterr()
    assert printed.out.split() == operator.opened
    address, _, token = operator.opened[0].partition("#")
    assert address.startswith("http://127.0.0.1:")
    assert len(token) >= 32
    assert "Circuit breakers" in operator.seen
    assert printed.err == ""


def test_each_run_has_a_token_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The token of one run is worth nothing in the next; and where no process is there yet, it says so and serves."""
    tokens: set[str] = set()
    for _ in range(2):
        operator = Operator()
        assert web.run(parse("--port=0", f"--directory={tmp_path}"), operator) == 0
        tokens |= {operator.opened[0].partition("#")[2]}
        assert "no process of this user" in capsys.readouterr().err
    assert len(tokens) == 2


def test_no_browser_is_opened_where_none_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --no-open the address is printed alone."""
    opened: list[str] = []

    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(web.PageServer, "serve_forever", interrupted)
    assert web.run(parse("--port=0", "--no-open", f"--directory={tmp_path}"), opened.append) == 0
    assert opened == []
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It ends with 2 and says which port, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert web.run(parse(f"--port={port}", f"--directory={tmp_path}"), print) == 2
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in said
    assert "--port 0" in said


def test_a_folder_that_is_not_to_be_trusted_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It ends with 2 where the sockets are in a folder that is open to others."""
    tmp_path.chmod(0o777)
    assert web.run(parse("--port=0", f"--directory={tmp_path}"), print) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "http", "²"])
def test_a_wrong_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A port is a number that there is."""
    with pytest.raises(SystemExit):
        parse(f"--port={port}")
    assert "a port is a number from 0 to 65535" in capsys.readouterr().err
