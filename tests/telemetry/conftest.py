"""What the tests of telemetry share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.meter import Meter


@pytest.fixture
def meter() -> Iterator[Meter]:
    """A metric reader."""
    started = Meter()
    yield started
    started.provider.shutdown()
