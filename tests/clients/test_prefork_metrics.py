"""The recipe for Prometheus with several processes, as it is printed: what Prometheus sees of each worker's breakers.

Real workers of gunicorn, uvicorn and Celery make calls that fail until the breaker of each is open.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

pytest.importorskip("celery", reason="celery is not installed")
pytest.importorskip("gunicorn", reason="gunicorn is not installed")

from tests.clients.support.celery_folders import connected_to
from tests.clients.support.process import application, wait_until_it_listens
from tests.monitoring.stack import Prometheus, free_port, wait_until
from tests.support.programs import required
from tests.support.server import PATIENCE

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]  # those of Celery are its own

FAILING = "wait 0.02;error INTERNAL ill"
PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
RECIPE = PAGE.partition("\n## Prometheus\n")[2].partition("\n## ")[0]
METERED = "tests.clients.support.metered"
GUNICORN = ["gunicorn", "--workers=2", "--config={folder}/gunicorn.conf.py", "--bind=unix:{folder}/web.sock"]
COMMANDS = {
    "gunicorn": [*GUNICORN, f"{METERED}:wsgi"],
    "gunicorn, preloaded": [*GUNICORN, "--preload", f"{METERED}:wsgi"],
    "uvicorn": ["uvicorn", "--workers=2", "--uds={folder}/web.sock", "shop_web:app"],
    "celery": ["celery", "-A", "shop_tasks", "worker", "--pool=prefork", "--concurrency=2", "-Ofair"],
}

Call = Callable[[], dict[str, Any]]


def block(text: str) -> str:
    """The block of Python of the recipe with this text in it."""
    (found,) = (it for it in re.findall(r"```py(?:thon)?\n(.*?)```", RECIPE, re.DOTALL) if text in it)
    return str(found)


def free_ports(number: int) -> range:
    """Ports in a row that nobody listens on."""
    while True:
        first = free_port()
        with suppress(OSError):
            for port in (ports := range(first, first + number)):
                with socket.socket() as free:
                    free.bind(("127.0.0.1", port))
            return ports


def written(folder: Path, ports: range) -> None:
    """Write what a reader of the recipe writes, with ports of its own."""
    recipe, _, _ = block("def serve_metrics(ports").partition("\nport = serve_metrics()")
    assert "range(9464, 9480)" in recipe
    files = {
        "shop_metrics.py": recipe.replace("range(9464, 9480)", repr(ports)),
        "gunicorn.conf.py": f"from shop_metrics import serve_metrics\n{block('def post_fork')}",
        "shop_web.py": f"""
from shop_metrics import serve_metrics
from {METERED} import asgi
{block("FastAPI(lifespan")}
app.mount("/", asgi)
""",
        "shop_tasks.py": f"""
from pathlib import Path

from shop_metrics import serve_metrics
from tests.clients.support.celery_folders import connected_to
from {METERED} import call
{block("worker_process_init")}
app = connected_to(Path({str(folder)!r}))
app.task(name="call")(call)
""",
    }
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def ports() -> range:
    """The ports for the metrics of the processes."""
    return free_ports(4)


@pytest.fixture(scope="module")
def prometheus(ports: range, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that asks all ports."""
    program = required("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("monitoring") / "prometheus"
    opened = Prometheus(program, folder, [f"127.0.0.1:{port}" for port in ports])
    yield opened
    opened.close()


@contextmanager
def running(name: str, folder: Path, ports: range) -> Iterator[Call]:
    """Run a server with two workers; yields what has one of them make a call."""
    written(folder, ports)
    command = [it.format(folder=folder) for it in COMMANDS[name]]
    with application(command, folder, PYTHONPATH=str(folder), HOME=str(folder)):
        if name == "celery":
            client = connected_to(folder)
            yield lambda: client.send_task("call", [FAILING]).get(2 * PATIENCE, interval=0.05)
            return
        wait_until_it_listens(folder / "web.sock")
        transport = httpx.HTTPTransport(uds=str(folder / "web.sock"))
        with httpx.Client(transport=transport, timeout=PATIENCE, headers={"Connection": "close"}) as client:
            yield lambda: client.get(f"http://web/?{quote(FAILING)}").json()


def open_all(call: Call, *, but: int = 0) -> dict[int, int]:
    """Call until two workers refuse, `but` not counted; returns how many calls each has refused."""
    refused: dict[int, int] = {}

    def call_once() -> bool:
        answer = call()
        if answer["refused"]:
            refused[answer["pid"]] = refused.get(answer["pid"], 0) + 1
        return len(set(refused) - {but}) == 2

    assert wait_until(call_once, pause=0.01), refused
    return refused


def refusals(prometheus: Prometheus) -> list[int]:
    """How many calls each process that Prometheus sees has refused with an open breaker."""
    refused = prometheus.query(
        'grpc_breaker_calls_total{grpc_breaker_outcome="rejected"} and on (instance) '
        '(grpc_breaker_state{grpc_breaker_state="open"} == 1)'
    )
    return sorted(int(it["value"][1]) for it in refused)


@pytest.mark.parametrize("name", COMMANDS)
def test_prometheus_sees_every_worker(name: str, tmp_path: Path, ports: range, prometheus: Prometheus) -> None:
    """Prometheus sees the open breaker of each worker, and how many calls this one has refused."""
    assert wait_until(lambda: refusals(prometheus) == [])  # of the processes before
    with running(name, tmp_path, ports) as call:
        refused = sorted(open_all(call).values())
        assert wait_until(lambda: refusals(prometheus) == refused), (refusals(prometheus), refused)


def test_prometheus_sees_a_worker_that_takes_the_place_of_another(
    tmp_path: Path, ports: range, prometheus: Prometheus
) -> None:
    """A worker that gunicorn starts in place of one that died is seen, too."""
    assert wait_until(lambda: refusals(prometheus) == [])
    with running("gunicorn", tmp_path, ports) as call:
        died = min(open_all(call))
        assert wait_until(lambda: len(refusals(prometheus)) == 2)
        os.kill(died, signal.SIGKILL)
        assert wait_until(lambda: len(refusals(prometheus)) == 1)
        open_all(call, but=died)
        assert wait_until(lambda: len(refusals(prometheus)) == 2)
