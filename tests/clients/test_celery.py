"""Guarded calls in the tasks of a Celery worker that forks (prefork), with soft time limits and results as JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed")

from grpc_breaker import CircuitOpenError
from tests.clients.support.process import application
from tests.support.server import PATIENCE, UNARY_UNARY

FAILING = "error INTERNAL ill"
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]  # those of Celery are its own


APP = "tests.clients.support.celery_app"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Runs a task in a worker of one process, and returns its result or raises its error."""
    from tests.clients.support.celery_folders import connected_to

    client = connected_to(tmp_path)
    options = ["--pool=prefork", "--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = ["celery", "-A", APP, "worker", *options]
    with application(command, tmp_path, SHOP_FOLDER=str(tmp_path)):
        yield lambda task, *arguments: client.send_task(f"{APP}.{task}", arguments).get(2 * PATIENCE, interval=0.05)


def test_celery_worker_refuses_and_counts_its_own_calls(run: Callable[..., Any]) -> None:
    """A worker's breaker opens and refuses; its metrics are those of its calls, and a refusal crosses as itself."""
    assert run("call", "ok") == "answer"
    assert [run("outcome", FAILING) for _ in range(3)] == ["failure", "failure", "rejected"]
    with pytest.raises(CircuitOpenError, match="circuit breaker open for " + UNARY_UNARY.strip("/")) as error:
        run("call", "ok")
    assert "next probe in" in str(error.value)
    facts = run("facts")
    assert facts["pid"] != os.getpid()
    assert facts["state"] == "open"
    assert facts["calls"] == {"success": 1, "failure": 2, "rejected": 2}


def test_celery_soft_time_limit(run: Callable[..., Any]) -> None:
    """A soft time limit that interrupts a call reaches the task; the call is ignored, and the next ones are guarded."""
    for _ in range(2):
        assert run("call_with_a_limit", "hang") == "interrupted"
    assert run("call", "ok") == "answer"
    facts = run("facts")
    assert (facts["state"], facts["in_flight"]) == ("closed", 0)
    assert facts["calls"] == {"ignored": 2, "success": 1}
