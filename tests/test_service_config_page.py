"""The page about service configs is true: its example is read, its tables agree with the code, its errors are those raised."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker import ServiceConfigError
from grpc_breaker._cli import main
from grpc_breaker._service_config import keys, read

PAGE = (Path(__file__).parent.parent / "docs" / "service_config.md").read_text("utf-8")
ROWS = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
"""The rows of its tables that begin with a key."""


def block(language: str) -> str:
    """The one block in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_example_is_read() -> None:
    """The example is right, and says what the page says of it."""
    config = read(block("json"), None)
    price, others = config.policies["pricing.v1.Pricing/GetPrice"], config.policies["pricing.v1.Pricing"]
    assert (price.timeout, others.timeout, others.retry) == (0.5, 2.0, None)
    assert config.default is not None
    assert config.default.breaker_policy.enforcement_percentage == 0


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in Python reads the document, makes a channel, and reads it again."""
    monkeypatch.chdir(tmp_path)
    Path("resilience.json").write_text(block("json"), "utf-8")
    named: dict[str, Any] = {}
    exec(compile(block("python"), "service_config.md", "exec"), named)
    named["channel"].close()
    breakers = named["breakers"]
    assert breakers["pricing.v1.Pricing/GetPrice"].policy.probe_deadline == 0.1
    assert read(breakers.to_service_config(), None) == read(block("json"), None)


def test_the_command_prints_what_the_page_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's answer to the example is the one on the page."""
    monkeypatch.chdir(tmp_path)
    Path("resilience.json").write_text(block("json"), "utf-8")
    called, printed = block("console").splitlines()
    assert main(called.split()[2:]) == 0
    assert capsys.readouterr().out.splitlines() == [printed]


def test_the_errors_are_those_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error on the page is raised word for word."""
    monkeypatch.chdir(tmp_path)
    entry = {"name": [{"service": "/a.B"}], "circuitBreaker": {"failureRate": 50, "resetTimout": "1s"}}
    Path("resilience.json").write_text(json.dumps({"methodConfig": [entry]}), "utf-8")
    with pytest.raises(ServiceConfigError) as wrong:
        read("resilience.json", None)
    assert str(wrong.value) == block("text").rstrip()


def test_every_key_is_there() -> None:
    """Each key of an entry and of each part is in its table or list."""
    documented = {key for row in ROWS for key in re.findall(r"`([\w.]+)`", row[0])}
    assert keys.READ | {"name"} <= documented
    assert set(keys.RETRY_POLICY.fields) <= documented
    for part, section in (
        ("bulkhead", keys.BULKHEAD),
        ("rateLimit", keys.RATE_LIMIT),
        ("throttle", keys.THROTTLE),
        ("fallback", keys.FALLBACK),
        ("lastGood", keys.LAST_GOOD),
    ):
        assert {f"{part}.{key}" for key in section.fields} <= documented
    listed = PAGE.partition("### `circuitBreaker`")[2].partition("\n\n- ")[0]
    assert set(re.findall(r"`(\w+)`", listed)) - {"BreakerPolicy"} == set(keys.CIRCUIT_BREAKER.fields)


@pytest.mark.parametrize(
    ("part", "section"), [("throttle", keys.THROTTLE), ("lastGood", keys.LAST_GOOD), ("fallback", keys.FALLBACK)]
)
def test_defaults_are_those_of_the_code(part: str, section: keys.Section) -> None:
    """The defaults in the tables are those of a part without keys."""
    schema = json.loads((Path(keys.__file__).parent / "schema.json").read_text("utf-8"))
    for row in ROWS:
        of, _, key = row[0].strip("|` ").partition(".")
        if of == part and key:
            assert json.loads(row[1].strip("` ")) == schema["$defs"][part]["properties"][key].get("default")
            assert key in section.fields
