"""The pytest fixtures that come with the package; registered as an entry point, so there is nothing to import.

A plugin is loaded in every test run of every project that has the package installed. So this one imports nothing of the
package until a fixture is used, and stands beside the package: loading a module of a package loads the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpc_breaker import BreakerRegistry, CircuitBreaker
    from grpc_breaker.testing import FakeClock


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that stands still until the test moves it: `BreakerRegistry(clock=fake_clock)`."""
    from grpc_breaker.testing import FakeClock  # noqa: PLC0415 - see the top

    return FakeClock()


@pytest.fixture
def hold_breaker_open() -> Iterator[Callable[..., CircuitBreaker]]:
    """Hold a breaker open until the test ends: `hold_breaker_open(breakers, "pricing.v1.Pricing/GetPrice")`."""
    from grpc_breaker.testing import hold_open  # noqa: PLC0415 - see the top

    with ExitStack() as held:

        def hold(
            source: BreakerRegistry | CircuitBreaker,
            method: str | tuple[str, str] | None = None,
            *,
            retry_after: float | None = None,
        ) -> CircuitBreaker:
            return held.enter_context(hold_open(source, method, retry_after=retry_after))

        yield hold
