"""Misspelt names: what they probably mean."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, Fallback, MethodPolicy
from grpc_breaker._core.other_names import FIELDS
from grpc_breaker._core.spelling import names_nearest_field, nearest

MIGRATING = Path(__file__).parents[2] / "docs" / "migrating.md"


@pytest.mark.parametrize(
    ("name", "alike", "found"),
    [
        ("lattitude", 0.6, "latitude"),
        ("latiude", 0.9, "latitude"),
        ("latiude", 0.95, ""),
        ("colour", 0.6, ""),
    ],
)
def test_nearest_name(name: str, alike: float, found: str) -> None:
    """The nearest of the names is found, and none where none is near."""
    assert nearest(name, ["longitude", "latitude", "altitude"], alike) == found


def test_dataclass_names_its_nearest_field() -> None:
    """A dataclass that is made with a field that it does not have says so, with its name and the nearest field."""

    @names_nearest_field
    @dataclass
    class Place:
        latitude: float
        longitude: float = 0.0

    wrong: Any = {"latitute": 1.0}
    assert Place(1.0, longitude=2.0) == Place(latitude=1.0, longitude=2.0)
    with pytest.raises(TypeError, match=r"^Place has no field 'latitute'; did you mean 'latitude'\?$"):
        Place(**wrong)


@pytest.mark.parametrize(
    ("made", "name", "said"),
    [
        (MethodPolicy, "failure_rate", "it is a field of BreakerPolicy"),
        (MethodPolicy, "minimum_calls", "it is a field of BreakerPolicy and Throttle"),
        (BreakerPolicy, "timeout", "it is a field of MethodPolicy; or did you mean 'reset_timeout'?"),
        (Fallback, "value", "its fields are last_good, function, constant, when"),
    ],
)
def test_a_field_that_is_elsewhere_or_nowhere(made: Any, name: str, said: str) -> None:
    """A field of another part of a policy is said to be there; where nothing is near, all fields are said."""
    with pytest.raises(TypeError) as wrong:
        made(**{name: 1})
    assert str(wrong.value) == f"{made.__name__} has no field {name!r}; {said}"


@pytest.mark.parametrize(("theirs", "ours"), FIELDS.items())
def test_a_setting_of_another_circuit_breaker(theirs: str, ours: str) -> None:
    """A setting by the name that another circuit breaker gives it is explained by the field of the same meaning."""
    assert theirs not in {field.name for field in fields(BreakerPolicy)}
    made: Any = BreakerPolicy
    with pytest.raises(TypeError) as wrong:
        made(**{theirs: 1})
    assert str(wrong.value) == f"BreakerPolicy has no field {theirs!r}; did you mean {ours!r}?"


def test_settings_of_other_circuit_breakers_are_those_of_the_page() -> None:
    """Each of these settings is in a table of the page about migrating, in a row with the field of the same meaning."""
    rows = [line for line in MIGRATING.read_text("utf-8").splitlines() if line.startswith("| ")]
    for theirs, ours in FIELDS.items():
        name = theirs.replace("_", "")
        assert [row for row in rows if name in row.split("|")[1].lower().replace("_", "") and f"`{ours}" in row], theirs
