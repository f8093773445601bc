"""The command `grpc-breaker check FILE…`."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from grpc_breaker._cli import main
from tests.unit.service_config.documents import WHOLE, entry


def test_good_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that is right has a line with what it is for; functions that it names need not be there."""
    monkeypatch.chdir(tmp_path)
    Path("whole.json").write_text(json.dumps(WHOLE), "utf-8")
    Path("{}").write_text(json.dumps({"methodConfig": [{"name": [{"service": "a.B"}, {"service": "a.C"}]}]}), "utf-8")
    assert main(["check", "whole.json", "{}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "whole.json: ok, 1 method, 1 service, a default",
        "{}: ok, 0 methods, 2 services",
    ]


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem of every file is a line of its own, and the command says 1, also when another file is right."""
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text(json.dumps(entry(timeout=5, circuitBreaker={"failureRat\n": 5})), "utf-8")
    Path("good.json").write_text("{}", "utf-8")
    assert main(["check", "bad.json", "gone.json", "good.json"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        'bad.json: $.methodConfig[0].timeout must be a duration such as "1.5s", got 5',
        'bad.json: $.methodConfig[0].circuitBreaker: there is no key "failureRat\\n"; did you mean "failureRate"?',
        "gone.json: cannot be read: No such file or directory",
        "good.json: ok, 0 methods, 0 services",
    ]


@pytest.mark.parametrize("arguments", [[], ["check"], ["verify", "a.json"], ["check", "--colour", "a.json"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments end the command with 2, and how it is used."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: grpc-breaker" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "code"), [("{}", 0), ("{", 1)])
def test_the_module_is_the_command(content: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m grpc_breaker` is the same command, and its exit code says whether all files are right."""
    path = tmp_path / "resilience.json"
    path.write_text(content, "utf-8")
    monkeypatch.setattr(sys, "argv", ["grpc-breaker", "check", str(path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("grpc_breaker", run_name="__main__")
    assert ended.value.code == code


def test_importing_the_module_runs_nothing() -> None:
    """A tool that imports every module does not run the command."""
    names = runpy.run_module("grpc_breaker.__main__", run_name="grpc_breaker.__main__")
    assert names["main"] is main
