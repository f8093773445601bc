"""The command `grpc-breaker web`: what it prints, when it ends, and what it cannot begin with."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import urllib.request
import webbrowser
from pathlib import Path

import pytest

from grpc_breaker._cli import main
from grpc_breaker._web.server import PageServer
from tests.support.server import PATIENCE
from tests.web.standin import StandIn, breaker


class Operator:
    """Opens the page, looks at it, and ends the command with Ctrl-C."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.seen = ""

    def __call__(self, address: str) -> None:
        self.opened.append(address)
        threading.Thread(target=self._look, args=[address]).start()

    def _look(self, address: str) -> None:
        try:
            with urllib.request.urlopen(address.partition("#")[0], timeout=PATIENCE) as response:
                self.seen = response.read().decode()
        finally:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Operator:
    """An operator with a display."""
    operator = Operator()
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "open", operator)
    return operator


def test_it_serves_until_ctrl_c(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the address with its token, opens it, serves the page, and ends with 0."""
    with StandIn(breaker()) as process:
        assert main(["web", "--port=0", f"--target={process.target}"]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == operator.opened
    address, _, token = operator.opened[0].partition("#")
    assert address.startswith("http://127.0.0.1:")
    assert len(token) >= 32
    assert "Circuit breakers" in operator.seen
    assert printed.err == ""


def test_each_run_has_a_token_of_its_own(
    operator: Operator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The token of one run is worth nothing in the next; and where no process is there yet, it says so and serves."""
    for _ in range(2):
        assert main(["web", "--port=0", f"--directory={tmp_path}"]) == 0
        assert "no process of this user" in capsys.readouterr().err
    first, second = (it.partition("#")[2] for it in operator.opened)
    assert first != second


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes as soon as it serves."""

    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupt)


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize(("options", "display"), [(["--no-open"], ":0"), ([], None)])
def test_a_browser_is_not_always_opened(
    options: list[str],
    display: str | None,
    tmp_path: Path,
    operator: Operator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --no-open, and on a host without a display, the address is printed alone."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["web", "--port=0", *options, f"--directory={tmp_path}"]) == 0
    assert operator.opened == []
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It ends with 2 and says which port, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["web", f"--port={port}", f"--directory={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in said
    assert "--port 0" in said


def test_a_folder_that_is_not_to_be_trusted_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It ends with 2 where the sockets are in a folder that is open to others."""
    tmp_path.chmod(0o777)
    assert main(["web", "--port=0", f"--directory={tmp_path}"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "http", "²"])
def test_a_wrong_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A port is a number that there is."""
    with pytest.raises(SystemExit):
        main(["web", f"--port={port}"])
    assert "a port is a number from 0 to 65535" in capsys.readouterr().err
