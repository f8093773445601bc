"""A clock that tests turn."""

from __future__ import annotations

import pytest


class Clock:
    """Seconds since the epoch, at the begin of a cell of a strip."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
