"""The commands of the Makefile: what `make help` shows, and what each installs. Nothing is installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
COMMANDS = MAKEFILE.partition(".PHONY: ")[2].partition("\n\n")[0].replace("\\\n", " ").split()

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> str:
    """What make prints. It gets nothing from the environment but the path: make may be what runs these tests."""
    command = ["make", "--no-print-directory", *arguments]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def installed_by(command: str, venv: Path) -> set[str]:
    """The extras that a command would install into an environment that is not there yet."""
    return set(re.findall(r"-e '\.\[(\w+)\]'", make("--dry-run", command, f"VENV={venv}", "PYTHON=python3")))


def test_help_shows_every_command_under_a_heading() -> None:
    """`make help` lists every command once, each but itself under a heading."""
    first, *groups = make("help").strip().split("\n\n")
    assert first.split()[0] == "help"
    headings = [group.splitlines()[0] for group in groups]
    assert not any(heading.startswith(" ") for heading in headings)
    listed = [line.split()[0] for group in groups for line in group.splitlines()[1:]]
    assert sorted(["help", *listed]) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("command", "extras"),
    [
        ("demo", {"otel"}),
        ("trace-demo", {"otel"}),
        ("test", {"test"}),
        ("lint", {"lint"}),
        ("format", {"lint"}),
        ("types", {"types"}),
        ("docs", {"docs"}),
        ("test-model", {"test"}),
        ("soak", {"test"}),
        ("test-clients", {"test", "clients"}),
        ("bench", {"bench"}),
        ("outage", {"bench"}),
        ("overload", {"bench"}),
        ("proto-check", set()),
    ],
)
def test_a_command_installs_what_it_needs(command: str, extras: set[str], tmp_path: Path) -> None:
    """A command installs what it needs and no more, in an environment that has nothing."""
    assert installed_by(command, tmp_path / "venv") == extras


def test_continuous_integration_installs_before_steps_run_side_by_side(tmp_path: Path) -> None:
    """The steps that run side by side in one environment install nothing: the first step in it has installed all of it."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    first, *later = re.findall(r"make --no-print-directory ([\w-]+) .*VENV=\"\$venvs/newest\".*", script)
    side_by_side = re.findall(r"make --no-print-directory ([\w-]+) VENV=\"\$venvs/newest\".*&$", script, re.MULTILINE)
    assert first == "test"
    assert set(side_by_side) < set(later)
    there = {"test", *re.findall(r'EXTRAS="([\w ]+)"', script)[0].split()}
    for command in side_by_side:
        assert installed_by(command, tmp_path / "venv") <= there, command


def test_what_is_installed_is_said() -> None:
    """Each extra that a command installs has words of its own, for what the user reads meanwhile."""
    used = set(re.findall(r"\.has-(\w+)", MAKEFILE)) | set(re.findall(r"^NEEDED_FOR_(\w+)", MAKEFILE, re.MULTILINE))
    assert used == set(re.findall(r"^NEEDED_FOR_(\w+) := \w", MAKEFILE, re.MULTILINE))
