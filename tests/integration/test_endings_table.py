"""Every RPC kind × every way of calling it × every way it can end × both worlds, each next to a bare channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from grpc_breaker import BreakerRegistry
from tests.integration.endings_table import CELLS, Cell, Servers, make_call, make_guarded, verdict
from tests.support.parts import idle_parts


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """The servers of the whole table."""
    with Servers() as running:
        yield running


@pytest.mark.parametrize(
    "parts", [pytest.param(None, id="breaker"), pytest.param(idle_parts, id="all parts", marks=pytest.mark.once)]
)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_ending(cell: Cell, parts: Callable[[], BreakerRegistry] | None, servers: Servers) -> None:
    """Application and server see what they see without us, or a refusal; one verdict counts; no permit stays out."""
    guarded = make_guarded(cell, servers, None if parts is None else parts())
    if cell.ending == "refused":
        family = "aio CircuitOpenError" if cell.world == "aio" else "CircuitOpenError"
        assert any(it.startswith(f"{family} UNAVAILABLE circuit breaker forced_open") for it in guarded.saw), guarded
        assert guarded.server_saw == "nothing"
    else:
        bare = make_call(cell, servers, None)
        assert (guarded.saw, guarded.server_saw) == (bare.saw, bare.server_saw)
    assert guarded.totals == {verdict(cell): 1}
    assert guarded.outstanding == 0
