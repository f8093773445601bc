"""Guarded calls in the workers of gunicorn, that loads the application before or after it forks, and of uvicorn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

pytest.importorskip("gunicorn", reason="gunicorn is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from tests.clients.support.process import application, wait_until_it_listens
from tests.support.server import PATIENCE

FAILING = "wait 0.02;error INTERNAL ill"
ROOT = Path(__file__).parents[2]
APPS = "tests.clients.support.web_apps"
COMMANDS = {
    "gunicorn": ["gunicorn", "--workers=2", "--bind=unix:{socket}", f"{APPS}:wsgi"],
    "gunicorn, preloaded": ["gunicorn", "--preload", "--workers=2", "--bind=unix:{socket}", f"{APPS}:wsgi"],
    "uvicorn": ["uvicorn", "--workers=2", "--lifespan=off", "--uds={socket}", f"{APPS}:asgi"],
}

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=COMMANDS)
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a web server with two workers, each of which imports an application that has counted seven calls."""
    socket_path = tmp_path / "web.sock"
    command = [it.format(socket=socket_path) for it in COMMANDS[request.param]]
    with application(command, tmp_path, HOME=str(tmp_path)):
        wait_until_it_listens(socket_path)
        transport = httpx.HTTPTransport(uds=str(socket_path))
        with httpx.Client(transport=transport, timeout=PATIENCE, headers={"Connection": "close"}) as client:
            yield client


def test_each_worker_has_a_breaker_of_its_own(web: httpx.Client, request: pytest.FixtureRequest) -> None:
    """Each worker's breaker opens by the failures it has seen, and refuses; each worker's metrics are those of its calls."""
    seen: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(500):
        response = web.get(f"http://web/?{quote(FAILING)}").json()
        seen[response["pid"]].append(response)
        if len(seen) == 2 and all(it[-1]["ended"] == "rejected" for it in seen.values()):
            break
    assert len(seen) == 2
    before = {"success": 7} if request.node.callspec.params["web"] in {"gunicorn", "uvicorn"} else {}
    for calls in seen.values():
        ended = [it["ended"] for it in calls]
        assert ended[:3] == ["failure", "failure", "rejected"]
        assert set(ended[2:]) == {"rejected"}
        assert (calls[-1]["state"], calls[-1]["in_flight"]) == ("open", 0)
        assert calls[-1]["calls"] == Counter(ended) + Counter(before)
