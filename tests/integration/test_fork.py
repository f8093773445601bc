"""A process that forks in the middle of its calls, with a real server and grpcio's own support for forks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import PATIENCE, Server


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_in_the_middle_of_calls() -> None:
    """The child begins with nothing in flight and calls by itself; the parent's calls end as if nothing had been."""
    environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"}
    with (
        Server() as server,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.support.forking", server.target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        lines = iter(process.stdout)
        try:
            child, parent = json.loads(next(lines)), json.loads(next(lines))
            server.journal.release.set()
            rest, _ = process.communicate("go on\n", timeout=PATIENCE)
        finally:
            process.kill()
    in_flight = {"UnaryStream": 1, "UnaryUnary": 1, "StreamStream": 0}
    assert child == {
        "who": "child",
        "before": in_flight,
        "inherited": dict.fromkeys(in_flight, 0),
        "answer": "answer",
        "forced open": True,
        "after": dict.fromkeys(in_flight, 0),
    }
    assert parent == {"who": "parent", "child": 0, "held": in_flight}
    assert json.loads(rest) == {
        "who": "parent",
        "stream": ["0", "1"],
        "future": "answer",
        "after": dict.fromkeys(in_flight, 0),
    }
