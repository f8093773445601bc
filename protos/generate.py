"""Writes the Python code of the protos, or with `--check` only compares it: `python protos/generate.py [--check]`.

The code must import without a warning on every protobuf runtime from 4.21 to the newest, so it is made by an old
protoc: protobuf promises that older generated code runs on newer runtimes, and protoc embeds a check of the runtime's
version only from release 27 on. Such an old grpcio-tools cannot be installed beside the newest grpcio, so it is
installed, for this one run, into a virtual environment that is thrown away afterwards. That takes a Python it has
wheels for (3.11 or 3.12): the one that runs this script where it fits, else one that is found on the PATH.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PINNED: Final = (
    "grpcio-tools==1.62.3",  # protoc 25.1
    "protobuf==6.33.0",  # for the plugins alone; protoc itself uses no Python runtime
    "mypy-protobuf==5.1.0",
    "types-protobuf==7.35.1.20260906",
)
"""All that runs, installed without dependencies: nothing else can move."""

PYTHONS: Final = ("3.12", "3.11")
"""The versions of Python that the pinned grpcio-tools and this project have in common."""

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = {
    Path("examples/pricing/v1"): Path("pricing/v1"),
    Path("grpc_breaker/admin/v1"): Path("grpc_breaker/admin/v1"),
}
"""Where the code goes, from the root, which is what it is imported as; and where in `protos` its protos are."""


class GenerateError(Exception):
    """The code could not be generated; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate or check.

    Returns:
        0 when the code is written or as it should be, 1 when it is not what the protos say, 2 when the tools failed.
    """
    parser = argparse.ArgumentParser(description="Write the Python code of the protos.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the code is out of date")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="pricing-protos-") as scratch:
            fresh = generate(Path(scratch))
    except GenerateError as error:
        print(f"protos: {error}", file=sys.stderr)
        return 2
    if options.check:
        return report([line for package in fresh for line in drift(package, committed(ROOT / package), fresh[package])])
    for package, files in fresh.items():
        write(ROOT / package, files)
        print(f"protos: wrote {len(files)} files to {package}")
    return 0


def generate(scratch: Path) -> dict[Path, dict[str, str]]:
    """Run the pinned tools inside `scratch`; answer for each package the text of each generated file by its name."""
    tools, out = scratch / "tools", scratch / "out"
    out.mkdir()
    run([find_python(), "-m", "venv", str(tools)])
    bin_folder = tools / ("Scripts" if os.name == "nt" else "bin")
    python = str(bin_folder / "python")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *PINNED])
    fresh: dict[Path, dict[str, str]] = {}
    for package, folder in PACKAGES.items():
        protos = ROOT / "protos" / folder
        # The proto path is mapped, so that the generated modules import each other by their full name in this project.
        run(
            [
                python,
                "-m",
                "grpc_tools.protoc",
                f"--proto_path={package.as_posix()}={protos}",
                *(f"--{plugin}_out={out}" for plugin in ("python", "grpc_python")),
                *(f"--{plugin}_out=quiet:{out}" for plugin in ("mypy", "mypy_grpc")),
                *(f"{package.as_posix()}/{proto.name}" for proto in sorted(protos.glob("*.proto"))),
            ],
            path=bin_folder,
        )
        fresh[package] = committed(out / package)
    return fresh


def find_python() -> str:
    """An interpreter that the pinned grpcio-tools has wheels for."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" in PYTHONS:
        return sys.executable
    for version in PYTHONS:
        found = shutil.which(f"python{version}")
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    message = f"{PINNED[0]} needs Python {' or '.join(PYTHONS)}, and neither this Python nor one on the PATH is that"
    raise GenerateError(message)


def run(command: Sequence[str], *, path: Path | None = None) -> None:
    """Run a command to its end, with `path` searched first; its output is shown only when it fails."""
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = os.pathsep.join([str(path), environment.get("PATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        message = f"`{' '.join(command)}` failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
        raise GenerateError(message)


def committed(folder: Path) -> dict[str, str]:
    """The text of each generated file in a folder, by its name."""
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*_pb2*.py*"))}


def write(folder: Path, fresh: dict[str, str]) -> None:
    """Make the generated files of a folder exactly these."""
    for name in committed(folder).keys() - fresh.keys():
        (folder / name).unlink()
    for name, text in fresh.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def drift(package: Path, present: dict[str, str], fresh: dict[str, str]) -> list[str]:
    """How the present files of a package differ from what the protos say, as a diff; empty when they do not."""
    return [
        line.rstrip("\n")
        for name in sorted(present.keys() | fresh.keys())
        for line in difflib.unified_diff(
            present.get(name, "").splitlines(),
            fresh.get(name, "").splitlines(),
            fromfile=f"{package.as_posix()}/{name}",
            tofile=f"{name} as generated from protos/",
        )
    ]


def report(difference: Sequence[str]) -> int:
    """Say whether the code is up to date; answer the exit code."""
    if not difference:
        print("protos: the generated code is up to date")
        return 0
    print(*difference, sep="\n")
    print("protos: the generated code is out of date; run `python protos/generate.py` and commit", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
