"""Prometheus and Alertmanager in processes of their own, and a receiver of notifications."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.support.server import PATIENCE

JOB: Final = "shop"
"""The job of everything that is scraped."""
INTERVAL: Final = "500ms"
"""How often Prometheus scrapes, and evaluates rules."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_until(holds: Callable[[], object], seconds: float = PATIENCE, pause: float = 0.1) -> bool:
    """Wait until a condition holds; false if it does not within the time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


class Program:
    """A server with an HTTP API, on a free port of loopback; it has started when it says that it is ready."""

    def __init__(self, folder: Path, command: Callable[[int], Sequence[str | Path]]) -> None:
        """Start it; `command` gets the port."""
        for _ in range(3):  # another process may take the free port first
            port = free_port()
            self.address = f"127.0.0.1:{port}"
            with (folder / "log").open("a") as log:
                self._process = subprocess.Popen(command(port), cwd=folder, stdout=log, stderr=log)
            if (
                wait_until(lambda: self._process.poll() is not None or self._is_ready())
                and self._process.poll() is None
            ):
                return
            self.close()
        message = f"{command(0)[0]} did not start: {(folder / 'log').read_text()}"
        raise AssertionError(message)

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=PATIENCE) as response:
            return bool(response.status == 200)
        return False

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers, from JSON."""
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            message = f"{url}: {error.read().decode()}"
            raise AssertionError(message) from error

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(PATIENCE)


class Prometheus(Program):
    """A Prometheus that scrapes some processes, and sends its alerts to an Alertmanager."""

    def __init__(
        self, program: str, folder: Path, targets: Sequence[str], rules: Sequence[str] = (), alertmanager: str = ""
    ) -> None:
        """Start it with rules, each the text of a file."""
        folder.mkdir()
        files = []
        for number, text in enumerate(rules):
            (folder / f"rules-{number}.yml").write_text(text)
            files.append(f"rules-{number}.yml")
        configuration = {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": files,
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []},
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(targets)}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        super().__init__(
            folder,
            lambda port: [
                program,
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is now: series with their labels (`metric`) and `value`; none where there is only NaN."""
        data = self.get("/api/v1/query", query=expression)["data"]
        assert data["resultType"] == "vector", expression
        return [series for series in data["result"] if series["value"][1] != "NaN"]

    def label_values(self, label: str, series: str) -> list[str]:
        """The values of a label of some series."""
        values: list[str] = self.get(f"/api/v1/label/{label}/values", **{"match[]": series})["data"]
        return values


class Alertmanager(Program):
    """An Alertmanager that sends each alert, and its end, to one receiver."""

    def __init__(self, program: str, folder: Path, receiver: str) -> None:
        """Start it."""
        folder.mkdir()
        configuration = {
            "route": {"receiver": "on-call", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"},
            "receivers": [{"name": "on-call", "webhook_configs": [{"url": receiver, "send_resolved": True}]}],
        }
        (folder / "alertmanager.yml").write_text(json.dumps(configuration))
        super().__init__(
            folder,
            lambda port: [
                program,
                "--config.file=alertmanager.yml",
                "--storage.path=data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
        )


class OnCall:
    """The receiver of notifications: an HTTP server that keeps them."""

    def __init__(self) -> None:
        """Start listening."""
        self.told: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """The notifications, by the name of the alert."""
        told = self.told

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    told[alert["labels"]["alertname"]].append(alert)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def has(self, status: str) -> set[str]:
        """The alerts with a notification of this status: firing, or resolved."""
        return {name for name, alerts in list(self.told.items()) if any(it["status"] == status for it in list(alerts))}

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
