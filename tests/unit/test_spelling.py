"""Misspelt names: what they probably mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from grpc_breaker._core.spelling import names_nearest_field, nearest


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
