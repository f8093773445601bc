"""A registry with a few breakers, and the service on each kind of server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry
from tests.admin.serving import KINDS, served

POLICY = BreakerPolicy(failure_threshold=2, reset_timeout=60, reset_timeout_jitter=0)


@pytest.fixture
def breakers() -> BreakerRegistry:
    """A registry of which two methods of one service, and one of another at a target, were called."""
    registry = BreakerRegistry(
        {"pricing.v1.Pricing": POLICY, "stock.v1.Stock/Reserve": BreakerPolicy(group="warehouse")}, default=POLICY
    )
    for name in ("pricing.v1.Pricing/GetPrice", "pricing.v1.Pricing/ListPrices", "stock.v1.Stock/Count@eu"):
        registry[name].admit().success()
    return registry


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets: their paths must be short, and pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="gb-") as name:
        yield Path(name, "grpc_breaker")


@pytest.fixture(params=KINDS)
def serve(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[..., Any]]:
    """Serves a registry on each kind of server in turn, and returns a client."""
    with ExitStack() as stack:
        yield lambda breakers, **options: stack.enter_context(served(request.param, folder, breakers, **options))


def fail(breakers: BreakerRegistry, name: str, details: str = "failed to connect") -> None:
    """Have a breaker open."""
    for _ in range(2):
        breakers[name].admit().failure("UNAVAILABLE", details)
