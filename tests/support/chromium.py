"""A real Chromium without a window, driven by chromedriver over W3C WebDriver: as much of it as the tests of the page need."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

KEYS: Final = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Down": "\ue015", "Up": "\ue013", "Space": " "}
PATIENCE: Final = 20.0
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


class Chromium:
    """One browser with one page."""

    def __init__(self, *flags: str, size: tuple[int, int] = (1440, 900)) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="chromium-"))
        self._output = (self._folder / "driver.log").open("w")
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(self._folder)},
        )
        options = {
            "binary": shutil.which("chromium"),
            "args": [
                *_FLAGS,
                f"--user-data-dir={self._folder / 'profile'}",
                f"--window-size={size[0]},{size[1]}",
                *flags,
            ],
        }
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._base = f"http://127.0.0.1:{self._port()}/session"
        self._base += "/" + self._send("POST", "", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]

    def _port(self) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for line in (self._folder / "driver.log").read_text().splitlines():
                if "started successfully on port" in line:
                    return int(line.rstrip(".").rpartition(" ")[2])
            time.sleep(0.02)
        raise AssertionError((self._folder / "driver.log").read_text())

    def _send(self, verb: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=verb)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        """Go to a page; one that is open already is loaded anew."""
        self.leave()
        self._send("POST", "/url", {"url": address})

    def leave(self) -> None:
        """Go to an empty page."""
        self._send("POST", "/url", {"url": "about:blank"})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns in the page."""
        return self._send("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait(self, condition: str, seconds: float = PATIENCE) -> float:
        """Wait in the page, frame by frame, until an expression is true; returns how many seconds that took.

        Raises:
            AssertionError: It was not true in time.
        """
        script = """
            const [seconds, done] = arguments, began = performance.now();
            const look = () => {
              const passed = (performance.now() - began) / 1000;
              let met = false;
              try { met = CONDITION; } catch (error) { met = false; }
              if (met || passed > seconds) done([Boolean(met), passed]);
              else setTimeout(look, 20);
            };
            look();
        """.replace("CONDITION", condition)
        self._send("POST", "/timeouts", {"script": int(1000 * seconds) + 10_000})
        met, passed = self._send("POST", "/execute/async", {"script": script, "args": [seconds]})
        assert met, (
            f"not within {seconds:g} s: {condition}\n{self.run('return document.body.innerText.slice(0, 2000)')}"
        )
        return passed

    def press(self, *keys: str) -> None:
        """Press keys one after another, each a name in `KEYS` or a text to type."""
        actions: list[dict[str, str]] = []
        for key in keys:
            for character in KEYS.get(key, key):
                actions += [{"type": "keyDown", "value": character}, {"type": "keyUp", "value": character}]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def look(self, *, dark: bool = False, width: int = 1440, height: int = 900, reduced_motion: bool = False) -> None:
        """The size of the page, and what its user prefers."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"},
        ]
        self.command("Emulation.setEmulatedMedia", features=features)

    def picture(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self._send("GET", "/screenshot"))

    def log(self) -> list[str]:
        """What was said on the console since the last time."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def requested(self) -> Sequence[str]:
        """The addresses that were asked since the last time."""
        entries = (
            json.loads(entry["message"])["message"] for entry in self._send("POST", "/se/log", {"type": "performance"})
        )
        return [it["params"]["request"]["url"] for it in entries if it["method"] == "Network.requestWillBeSent"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._send("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(PATIENCE)
            self._output.close()
            shutil.rmtree(self._folder, ignore_errors=True)
