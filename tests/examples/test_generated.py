"""The generated code imports without a warning, and is found out if it differs from the protos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from protos import generate


def test_the_code_imports_without_a_warning() -> None:
    """All generated modules import in a Python that makes every warning an error."""
    pricing = ("pricing_pb2", "pricing_pb2_grpc", "trouble_pb2", "trouble_pb2_grpc")
    admin = ("admin_pb2", "admin_pb2_grpc")
    statement = f"from examples.pricing.v1 import {', '.join(pricing)}; "
    statement += f"from grpc_breaker.admin.v1 import {', '.join(admin)}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", statement], capture_output=True, text=True, check=False, cwd=generate.ROOT
    )
    assert done.returncode == 0, done.stderr


def test_drift_is_shown_as_a_diff() -> None:
    """A file that differs, is missing or is too many shows in the diff; equal files do not."""
    present = {"same.py": "a\n", "edited.py": "b\n", "extra.py": "c\n"}
    fresh = {"same.py": "a\n", "edited.py": "B\n", "missing.py": "d\n"}
    difference = generate.drift(Path("pkg"), present, fresh)
    changed = [line for line in difference if line[0] in "+-" and not line.startswith(("+++", "---"))]
    assert changed == ["-b", "+B", "-c", "+d"]


def test_drift_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Drift exits with 1 and names the command that mends it; no drift exits with 0."""
    assert generate.report([]) == 0
    assert generate.report(["-b", "+B"]) == 1
    assert "run `python protos/generate.py`" in capsys.readouterr().err


def test_writing_leaves_no_stale_file(tmp_path: Path) -> None:
    """Writing the generated files removes those that are no longer generated, and nothing else."""
    for name in ("old_pb2.py", "__init__.py"):
        (tmp_path / name).write_text("", encoding="utf-8")
    generate.write(tmp_path, {"new_pb2.py": "x = 1\n"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["__init__.py", "new_pb2.py"]


def test_a_failing_tool_is_shown() -> None:
    """A command that fails becomes an error with its exit code and what it printed."""
    with pytest.raises(generate.GenerateError, match=r"exit code 3:\nwhat went wrong"):
        generate.run([sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"])
