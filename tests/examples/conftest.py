"""What the tests of the examples share: a real pricing server for each test, and a service config with long deadlines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.pricing import shop
from examples.pricing.switchboard import PricingServer


@pytest.fixture
def server() -> Iterator[PricingServer]:
    """A pricing server that works, in a process of its own."""
    with PricingServer() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The shop's own service config with deadlines of ten seconds, because a busy machine may need them."""
    document = json.loads(shop.DOCUMENT.read_text("utf-8"))
    for entry in document["methodConfig"]:
        if "timeout" in entry:
            entry["timeout"] = "10s"
        entry["circuitBreaker"].pop("probeDeadline", None)
    copy = tmp_path / "resilience.json"
    copy.write_text(json.dumps(document), "utf-8")
    return copy
