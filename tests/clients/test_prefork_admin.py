"""The recipes for serving breakers from several processes, as they are printed: the command sees each worker's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

pytest.importorskip("celery", reason="celery is not installed")
pytest.importorskip("gunicorn", reason="gunicorn is not installed")

from tests.clients.support.celery_folders import connected_to
from tests.clients.support.process import application, wait_until_it_listens
from tests.monitoring.stack import wait_until
from tests.support.server import PATIENCE

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]  # those of Celery are its own

FAILING = "wait 0.02;error INTERNAL ill"
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "admin.md").read_text("utf-8")
RECIPE = PAGE.partition("\n## Several processes")[2].partition("\n## ")[0]
GUNICORN = ["gunicorn", "--workers=2", "--config={folder}/gunicorn.conf.py", "--bind=unix:{folder}/web.sock"]
COMMANDS = {
    "gunicorn": [*GUNICORN, "shop:wsgi"],
    "gunicorn, preloaded": [*GUNICORN, "--preload", "shop:wsgi"],
    "uvicorn": ["uvicorn", "--workers=2", "--uds={folder}/web.sock", "shop_web:app"],
    "celery": ["celery", "-A", "shop_tasks", "worker", "--pool=prefork", "--concurrency=2", "-Ofair"],
}

Call = Callable[[], dict[str, Any]]


def block(text: str) -> str:
    """The block of Python of the recipe with this text in it."""
    (found,) = (it for it in re.findall(r"```py\n(.*?)```", RECIPE, re.DOTALL) if text in it)
    return str(found)


def written(folder: Path) -> None:
    """Write what a reader of the recipe writes."""
    files = {
        "shop.py": "from tests.clients.support.shop import breakers\nfrom tests.clients.support.web_apps import wsgi\n",
        "gunicorn.conf.py": block("def post_worker_init"),
        "shop_web.py": f"{block('FastAPI(lifespan')}\nfrom tests.clients.support.web_apps import asgi\napp.mount('/', asgi)\n",
        "shop_tasks.py": f"""
from pathlib import Path

from tests.clients.support import shop as calls
from tests.clients.support.celery_folders import connected_to
{block("worker_process_init")}
app = connected_to(Path({str(folder)!r}))


@app.task(name="call")
def call(script):
    return {{"ended": calls.outcome(script), **calls.facts()}}
""",
    }
    for name, text in files.items():
        (folder / name).write_text(text)


@contextmanager
def running(name: str, folder: Path) -> Iterator[tuple[Call, Callable[..., Any]]]:
    """Run a server with two workers; yields what has one of them make a call, and the command."""
    written(folder)
    environment = {"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}

    def command(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "grpc_breaker", *arguments, "--json", "--timeout", "10"],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return json.loads(done.stdout) if done.stdout else {"processes": []}

    with application(
        [it.format(folder=folder) for it in COMMANDS[name]], folder, PYTHONPATH=str(folder), **environment
    ):
        if name == "celery":
            client = connected_to(folder)
            yield lambda: client.send_task("call", [FAILING]).get(2 * PATIENCE, interval=0.05), command
            return
        wait_until_it_listens(folder / "web.sock")
        transport = httpx.HTTPTransport(uds=str(folder / "web.sock"))
        with httpx.Client(transport=transport, timeout=PATIENCE, headers={"Connection": "close"}) as client:
            yield lambda: client.get(f"http://web/?{quote(FAILING)}").json(), command


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets: their paths must be short, and pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="gb-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_sees_every_worker(name: str, folder: Path) -> None:
    """The command lists the breaker of each worker with the calls that this one refused, and no other process."""
    with running(name, folder) as (call, command):
        refused: dict[int, int] = {}

        def both_refuse() -> bool:
            answer = call()
            refused[answer["pid"]] = answer["calls"].get("rejected", 0)
            return len(refused) == 2 and all(refused.values())

        assert wait_until(both_refuse, pause=0.01), refused
        seen = {it["pid"]: [breaker["rejected"] for breaker in it["breakers"]] for it in command("list")["processes"]}
        assert seen == {pid: [calls] for pid, calls in refused.items()}


def test_a_worker_that_takes_the_place_of_another(folder: Path) -> None:
    """A worker that gunicorn starts in place of one that died is seen, and the one that died is not."""
    with running("gunicorn", folder) as (_, command):

        def workers() -> set[int]:
            return {it["pid"] for it in command("list")["processes"]}

        assert wait_until(lambda: len(workers()) == 2)
        first = workers()
        died = min(first)
        os.kill(died, signal.SIGKILL)
        assert wait_until(lambda: len(workers() - {died}) == 2)
        assert died not in workers()
