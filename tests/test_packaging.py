"""The wheel, built as `pip` builds it: what is in it, and what a package index shows of it."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import grpc_breaker

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """Its metadata; the payload is the README as a package index shows it."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_has_the_package_and_its_pytest_plugin(wheel: zipfile.ZipFile) -> None:
    """The wheel installs the package, with the marker of its types, and the pytest plugin beside it; nothing else."""
    names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"grpc_breaker", "_grpc_breaker_pytest.py"}
    assert "grpc_breaker/py.typed" in names


def test_the_wheel_has_the_schema_and_the_command(wheel: zipfile.ZipFile) -> None:
    """The wheel has the JSON schema of service configs, and installs the command that checks them."""
    names = wheel.namelist()
    assert "grpc_breaker/_service_config/schema.json" in names
    (points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    assert "grpc-breaker = grpc_breaker._cli:main" in wheel.read(points).decode()


def test_the_wheel_has_the_live_page(wheel: zipfile.ZipFile) -> None:
    """The wheel has every file of the page that `grpc-breaker web` serves."""
    folder = "grpc_breaker/_web/static"
    files = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir()}
    assert f"{folder}/index.html" in files
    assert files <= set(wheel.namelist())


def test_the_version_is_one(metadata: Message) -> None:
    """The wheel, `grpc_breaker.__version__` and the newest entry of the changelog name the same version."""
    newest = re.search(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert metadata["Version"] == grpc_breaker.__version__ == newest[1]


def test_the_readme_of_the_wheel_has_no_relative_links(metadata: Message) -> None:
    """Every link and image of the README leads somewhere from a package index, too: to the tag of the version."""
    text = metadata.get_payload(decode=True).decode()
    links = [link for link in LINK.findall(text) if not link.startswith("#")]
    relative = [link for link in LINK.findall((ROOT / "README.md").read_text("utf-8")) if "://" not in link]
    assert relative
    assert [link for link in links if not link.startswith("https://")] == []
    repository, tag = PROJECT["urls"]["Repository"], f"v{grpc_breaker.__version__}"
    for link in relative:
        kind = "raw" if link.endswith(".svg") else "blob"
        assert f"{repository}/{kind}/{tag}/{link}" in links
        assert (ROOT / link.partition("#")[0]).exists()


def test_project_urls_are_of_one_repository(metadata: Message) -> None:
    """The project's addresses all belong to the repository."""
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert urls == PROJECT["urls"]
    assert all(url.startswith(urls["Repository"]) for url in urls.values())


def test_the_readme_names_the_lowest_versions() -> None:
    """The README names the lowest Python and grpcio that the package is installed with; CI tests these versions."""
    readme = (ROOT / "README.md").read_text("utf-8")
    lowest = dict(line.split("==") for line in (ROOT / ".ci" / "lowest.txt").read_text("utf-8").split())
    required = dict(line.split(">=") for line in PROJECT["dependencies"])
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in readme
    assert f"grpcio {required['grpcio']} or newer" in readme
    assert {name: lowest[name].removesuffix(".0") for name in required} == {
        name: version.removesuffix(".0") for name, version in required.items()
    }
