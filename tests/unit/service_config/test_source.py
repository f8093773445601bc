"""From a path, a text or a dict to data: whatever a file may be, one error says what is wrong with it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from grpc_breaker import ServiceConfigError
from grpc_breaker._service_config import read
from tests.unit.service_config.documents import WHOLE, problems, said

TEXT = json.dumps(WHOLE)


def test_all_sources_say_the_same(tmp_path: Path) -> None:
    """A path, the same as text, JSON text with and without a line break before it, and a mapping say the same."""
    path = tmp_path / "resilience.json"
    path.write_text(TEXT, "utf-8")
    config = said(WHOLE)
    assert len(config.policies) == 2
    for source in (path, str(path), TEXT, f"\n{TEXT}", MappingProxyType(WHOLE)):
        again = said(source)
        assert again == config
        assert again.document == WHOLE


def test_a_mark_of_utf_8_is_no_error(tmp_path: Path) -> None:
    """A file that begins with a byte order mark is read."""
    path = tmp_path / "resilience.json"
    path.write_text(TEXT, "utf-8-sig")
    assert said(path) == said(WHOLE)


def test_the_document_belongs_to_the_config() -> None:
    """What becomes of a dict after it was read does not reach the config."""
    given = json.loads(TEXT)
    config = said(given)
    given["methodConfig"][0]["name"].clear()
    assert config.document == WHOLE


@pytest.mark.parametrize("source", [None, 5, b"{}", [], ""])
def test_what_is_no_source(source: Any) -> None:
    """A source of another kind is an error that says which there are."""
    with pytest.raises(TypeError, match=r"must be a path, JSON text that begins with '\{', or a dict"):
        read(source, None)


@pytest.mark.parametrize("functions", [[], {"judge": 5}, {5: print}])
def test_functions_have_names(functions: Any) -> None:
    """Functions are a mapping of names to callables."""
    with pytest.raises(TypeError, match="functions must be a mapping of names to callables, got"):
        read({}, functions)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that is not there, or is a directory, is an error with its path."""
    for path, words in ((tmp_path / "gone.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ServiceConfigError) as wrong:
            read(path, None)
        assert str(wrong.value) == f"{path}: cannot be read: {words}"
    with pytest.raises(ServiceConfigError, match=r"cannot be read: .*null"):
        read("resilience\0.json", None)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1"),
        (TEXT[: len(TEXT) // 2].encode(), "is not JSON: "),
        (b'{\n  "methodConfig": [}', "is not JSON: Expecting value at line 2, column 20"),
        (b'{"a": "\xff"}', "is not UTF-8: invalid start byte at byte 7"),
        (b"[" * 100_000, "has more than 100 objects and lists inside each other"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "is not JSON that can be read: Exceeds the limit"),
        (b"[]", "$ must be an object, got []"),
        (b'"text"', '$ must be an object, got "text"'),
        (b" " * (8 * 1024 * 1024 + 1), "is larger than 8388608 bytes (8 MiB), the most that is read"),
    ],
)
def test_a_file_that_is_no_document(tmp_path: Path, content: bytes, problem: str) -> None:
    """A file that is empty, half written, not UTF-8, too large, or something else, is one error that says so."""
    path = tmp_path / "resilience.json"
    path.write_bytes(content)
    (found,) = problems(path)
    assert found.startswith(problem)


def test_the_largest_file(tmp_path: Path) -> None:
    """A file of 8 MiB is read."""
    path = tmp_path / "resilience.json"
    path.write_bytes(TEXT.encode().ljust(8 * 1024 * 1024))
    assert said(path) == said(WHOLE)


def nested(depth: int) -> Any:
    """Objects inside each other."""
    made: dict[str, Any] = {}
    for _ in range(depth - 1):
        made = {"a": made}
    return made


def test_depth_has_a_limit() -> None:
    """A hundred objects inside each other are read, and no more; an object inside itself is none of the hundred."""
    assert said(nested(100)).document == nested(100)
    (found,) = problems(nested(101))
    assert found.startswith("$.a.a.a")
    assert found.endswith("must be inside at most 100 objects and lists, got {}")
    inside: dict[str, Any] = {"b": []}
    inside["b"].append(inside)
    assert problems({"a": inside}) == ("$.a.b[0] must be inside at most 100 objects and lists, got {}",)


def test_values_that_are_no_json() -> None:
    """Values, keys and texts that no JSON can have are found, each with its path, beside everything else."""
    given = {"a": [float("nan"), {1}], 5: 1, "b": "\ud800", "\udfff": 1, "é": "ü", "methodConfig": {}}
    assert problems(given) == (
        "$.a[0] must be a finite number, got NaN",
        "$.a[1] must be JSON data, got an object of type set",
        "$ has a key that is no text: 5",
        '$.b must be text without half of a surrogate pair, got "\\ud800"',
        '$ has a key that is no text: "\\udfff"',
        "$.methodConfig must be a list of objects, got {}",
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite(number: str) -> None:
    """A number that is not finite, which JSON does not have, is one problem of its value."""
    text = '{"retryThrottling": {"maxTokens": 5, "tokenRatio": NUMBER}}'
    (found,) = problems(text.replace("NUMBER", number))
    assert found.startswith("$.retryThrottling.tokenRatio must be a finite number, got ")


def test_keys_that_are_there_twice() -> None:
    """A key that is there twice is an error, however deep: gRPC would refuse every call."""
    text = '{"a": 1, "a": 1, "a": 2, "methodConfig": [{"name": [{}], "throttle": {"k": 1, "k": 2}}]}'
    assert problems(text) == ("$.a is there more than once", "$.methodConfig[0].throttle.k is there more than once")


def test_an_error_shows_its_source_and_every_problem(tmp_path: Path) -> None:
    """The error begins with the path, has each problem in a line of its own, and is pickled whole."""
    path = tmp_path / "resilience.json"
    path.write_text('{"methodConfig": 1, "retryThrottling": 2}')
    with pytest.raises(ServiceConfigError) as wrong:
        read(path, None)
    for error in (wrong.value, pickle.loads(pickle.dumps(wrong.value))):
        assert error.source == str(path)
        assert str(error).splitlines() == [
            f"{path}: 2 problems",
            "  $.methodConfig must be a list of objects, got 1",
            "  $.retryThrottling must be an object, got 2",
        ]
    with pytest.raises(
        ServiceConfigError, match=r"^service config: \$\.methodConfig must be a list of objects, got 1$"
    ):
        read({"methodConfig": 1}, None)
