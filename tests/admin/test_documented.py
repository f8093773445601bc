"""The page about the admin service is true: its Python runs, and it names every command and exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from grpc_breaker._cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "admin.md").read_text("utf-8")


def test_its_python_runs() -> None:
    """The blocks run one after the other; the process ends by itself."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    with tempfile.TemporaryDirectory(prefix="gb-") as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        code += "\nprint(server.path, len(breakers))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert re.fullmatch(rf"{folder}/grpc_breaker/\d+\.sock 0\n", done.stdout)


def test_it_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has each command of `grpc-breaker` that looks or acts on breakers, and the files and shells."""
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = set(re.findall(r"^    ([a-z-]+)(?= |$)", capsys.readouterr().out, re.MULTILINE))
    assert {"list", "watch", "get", "force-open", "disable", "reset"} <= commands
    named = set(re.findall(r"^\| `([a-z-]+) ", PAGE, re.MULTILINE))
    assert {"list", "watch", "get", "force-open", "disable", "reset", "check", "completion"} <= named
    assert named <= commands
