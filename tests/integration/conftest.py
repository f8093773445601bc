"""What most tests of whole calls need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A real server, for the tests of one file."""
    with Server() as running:
        yield running
