"""The picture of the command line in the documentation: real processes, their breakers, and what a terminal shows.

    python -m benchmarks.terminal_picture docs/images/terminal.png

Needs chromium and chromium-driver (Debian), and pillow. Nothing else on this host may serve its breakers meanwhile.
"""

from __future__ import annotations

import argparse
import html
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.web_page import save
from tests.support.chromium import Chromium

COLUMNS = 150
COMMANDS = (
    "list",
    'force-open pricing.v1.Pricing --for 10m --reason "wrong prices since deploy 42"',
    "list --state forced_open",
)
PROCESS = """
import sys, time, grpc
from grpc_breaker import BreakerRegistry
from grpc_breaker.admin import serve_admin
breakers = BreakerRegistry()
serve_admin(breakers, allow_changes=True)
def calls(method, good, bad, status="UNAVAILABLE", details=""):
    breaker = breakers[method]
    for _ in range(good):
        breaker.admit().success()
    for _ in range(bad):
        permit = breaker.try_admit(method)
        if hasattr(permit, "failure"):
            permit.failure(status, details)
calls("stock.v1.Stock/Count", 4200, 1, "DEADLINE_EXCEEDED", "Deadline Exceeded")
calls("accounts.v1.Accounts/GetProfile", 960, 0)
if sys.argv[1] == "sick":
    calls("pricing.v1.Pricing/GetPrice", 880, 320, details="failed to connect to all addresses; connection refused")
else:
    calls("pricing.v1.Pricing/GetPrice", 910, 2, details="Socket closed")
print("ready", flush=True)
sys.stdin.read()
"""
COLOURS = {
    "31": "#ff8078",
    "32": "#7fd99a",
    "33": "#ffd166",
    "35": "#d8a8ff",
    "36": "#7fd3e8",
    "2": "#9aa7b2",
    "1": "#fff",
}


def shown(command: str, environment: dict[str, str]) -> str:
    """What a terminal shows of a command."""
    ours, theirs = pty.openpty()
    subprocess.run(
        f"stty cols {COLUMNS}; {sys.executable} -m grpc_breaker {command}",
        shell=True,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **environment, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
        check=False,
    )
    os.close(theirs)
    text = ""
    while True:
        try:
            text += os.read(ours, 65536).decode()
        except OSError:
            return text.replace("\r", "")


def as_html(text: str) -> str:
    """The same with colours."""
    text = re.sub(
        "\x1b\\[(\\d*)(?:;\\d+)*m",
        lambda it: f'<b style="color:{COLOURS.get(it[1], "#fff")}">' if it[1] not in {"", "0"} else "</b>",
        html.escape(text),
    )
    return re.sub("\x1b\\[[^a-zA-Z]*[a-zA-Z]", "", text)


def main() -> None:
    """Take it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    path: Path = parser.parse_args().path
    with tempfile.TemporaryDirectory() as folder:
        environment = {"XDG_RUNTIME_DIR": folder}
        processes = []
        for name, state in (("checkout.py", "sick"), ("cart.py", "well")):
            (Path(folder) / name).write_text(PROCESS)
            process = subprocess.Popen(
                [sys.executable, str(Path(folder) / name), state],
                env={**os.environ, **environment, "PYTHONPATH": str(Path.cwd())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            processes.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        text = "".join(f"<i>$ grpc-breaker {it}</i>\n{as_html(shown(it, environment))}\n" for it in COMMANDS)
        for process in processes:
            process.kill()
        page = Path(folder) / "page.html"
        style = "background:#10161d;color:#dde4ea;font:15px/1.35 monospace;margin:14px"
        page.write_text(f'<meta charset="utf-8"><body style="{style}"><pre style="margin:0">{text.rstrip()}</pre>')
        with Chromium() as browser:
            browser.look(height=20 * text.count("\n") + 60)
            browser.open(page.as_uri())
            save(browser, path)


if __name__ == "__main__":
    main()
