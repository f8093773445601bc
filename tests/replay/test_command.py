"""`grpc-breaker replay`: what it prints, writes and ends with."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from grpc_breaker._cli import main
from tests.replay.records import lines, outage, row, rows_of, written


@pytest.fixture
def record(tmp_path: Path) -> str:
    """The record of an outage."""
    return str(written(tmp_path / "traffic.jsonl", lines(*rows_of(outage()))))


def config(path: Path, name: str, failures: int) -> str:
    """A service config."""
    document = {"methodConfig": [{"name": [{}], "circuitBreaker": {"consecutiveFailures": failures}}]}
    return str(written(path / name, json.dumps(document)))


def test_configs_and_policies_in_one_table(record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a row, by the name it was given."""
    now, soon = config(tmp_path, "now.json", 5), config(tmp_path, "next.json", 50)
    policy = "consecutive_failures=3, reset_timeout=10,window_calls=none"
    assert main(["replay", record, "--config", now, "--config", soon, "--policy", policy, "--policy", "default"]) == 0
    printed = capsys.readouterr().out
    for name in (now, soon, policy, "default"):
        assert f"\n{name} " in printed


def test_the_default_policy_is_what_is_played(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where none is named."""
    assert main(["replay", record, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [it["name"] for it in document["policies"]] == ["default"]


def test_json_has_what_was_asked_for(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Sensitivity and advice are in the same document."""
    assert main(["replay", record, "--json", "--sensitivity", "--advice", "--threads", "4"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"record", "warnings", "policies", "sensitivity", "advice"}
    assert len(document["policies"]) == 1
    assert document["advice"]["threads"] == 4


def test_text_has_what_was_asked_for(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Sensitivity and advice below the table."""
    assert main(["replay", record, "--sensitivity", "--advice"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("Sensitivity of default") < printed.index("Advice, from the healthy part")
    assert "\0" not in printed


def test_the_page_is_written(record: str, tmp_path: Path) -> None:
    """Beside what is printed."""
    page = tmp_path / "report.html"
    assert main(["replay", record, "--html", str(page)]) == 0
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_a_scenario_and_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Played as it is made, and as it is read back."""
    path = tmp_path / "spike.jsonl"
    arguments = ["replay", "--scenario", "spike", "--seed", "1", "--seconds", "60", "--rate", "30", "--json"]
    assert main([*arguments, "--write-record", str(path)]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["replay", str(path), "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policies"] == made["policies"]


def test_a_record_of_a_breaker_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes a word to play it."""
    path = str(written(tmp_path / "x", lines(row(0.5), row(1.5, refused="breaker", duration=0.0))))
    assert main(["replay", path]) == 2
    assert f"grpc-breaker replay: {path}:3: this call was refused (breaker)" in capsys.readouterr().err
    assert main(["replay", path, "--despite-breaker"]) == 0
    assert "WARNING: The record was made with a breaker at work" in capsys.readouterr().out


def test_methods_and_horizon(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both reach the replay."""
    assert main(["replay", record, "--method", "pricing.v1.Pricing", "--horizon", "1"]) == 0
    assert main(["replay", record, "--method", "other"]) == 2
    assert "no call of other in it" in capsys.readouterr().err


@pytest.mark.parametrize(("wanted", "ends"), [("false-alarms", 0), ("outside", 1), ("warnings", 1)])
def test_what_a_script_may_ask_for(record: str, wanted: str, ends: int) -> None:
    """The command ends with 1 where that came of it."""
    assert main(["replay", record, "--fail-on", wanted]) == ends


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name one or more files with recorded traffic, or a --scenario"),
        (["FILE", "--scenario", "spike"], "name one or more files"),
        (["FILE", "--write-record", "x"], "--write-record writes a --scenario"),
        (["FILE", "--policy", "consecutive_failure=3"], "did you mean 'consecutive_failures'?"),
        (["FILE", "--policy", "xyz=3"], "has no field 'xyz'"),
        (["FILE", "--policy", "fail_max=3"], "has no field 'fail_max'; did you mean 'consecutive_failures'?"),
        (["FILE", "--policy", "consecutive_failures"], "consecutive_failures needs one value"),
        (["FILE", "--policy", "minimum_calls=3,minimum_calls=4"], "minimum_calls needs one value"),
        (["FILE", "--policy", "consecutive_failures=many"], "consecutive_failures must be an integer, got 'many'"),
        (["FILE", "--policy", "reset_timeout=soon"], "reset_timeout must be a number, got 'soon'"),
        (["FILE", "--policy", "reset_timeout=-1"], "BreakerPolicy.reset_timeout must be"),
        (["FILE", "--policy", "reset_timeout=none"], "BreakerPolicy.reset_timeout must be"),
        (["FILE", "--policy", "group=a,refusal_code=OK"], "BreakerPolicy.refusal_code must be"),
        (["FILE", "--policy", "default", "--policy", ""], "the policy default is given twice"),
        (
            ["FILE", "--policy", "default", "--policy", "minimum_calls=5", "--sensitivity"],
            "--sensitivity varies one policy",
        ),
        (["FILE", "--config", "CONFIG", "--sensitivity"], "sensitivity varies one policy for all methods"),
        (["FILE", "--config", "FILE"], "is not JSON"),
        (["FILE", "--config", "none.json"], "none.json: cannot be read"),
        (["none.jsonl"], "none.jsonl: cannot be read"),
        (["FILE", "--html", "/none/x.html"], "No such file or directory"),
        (["-", "--advice"], "--advice reads the record twice"),
        (["FILE", "--advice", "--threads", "0"], "threads must be 1 or more"),
    ],
)
def test_called_wrongly(
    arguments: list[str], words: str, record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 2, and says why, without a traceback."""
    names = {"FILE": record, "CONFIG": config(tmp_path, "config.json", 5)}
    assert main(["replay", *[names.get(it, it) for it in arguments]]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
    assert all(line.startswith("grpc-breaker replay: ") for line in printed.err.splitlines())


def test_standard_input(record: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A record may come through a pipe."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(record).read_bytes())))
    assert main(["replay", "-"]) == 0
    assert capsys.readouterr().out.startswith("1500 calls of 1 method")
