"""The endings table: every RPC kind × every idiom × every ending × both worlds, against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.endings import CELLS, VERDICTS, Cell, examine, run
from tests.support.echo import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for the whole table."""
    started = Server()
    yield started
    started.stop()


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_ending(cell: Cell, server: Server) -> None:
    """The application sees what it would see without us, or a refusal; one verdict is counted; no permit is left."""
    seen = examine(cell, server)
    if cell.ending == "refused":
        refusal = "CircuitOpenError UNAVAILABLE rpc=True circuit breaker forced_open f"
        assert seen.application[-1] == refusal or refusal in seen.application, seen.application
    else:
        assert seen.application == run(cell, server, None)
    assert (seen.verdict, seen.in_flight) == (VERDICTS[cell.ending], 0)
