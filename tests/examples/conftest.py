"""What the tests of the examples share: a real pricing server for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.pricing.switchboard import PricingServer


@pytest.fixture
def server() -> Iterator[PricingServer]:
    """A pricing server that works, in a process of its own."""
    with PricingServer() as running:
        yield running
