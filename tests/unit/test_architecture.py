"""Which module may import which. Read from the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "grpc_breaker"
PLUGIN = PACKAGE.parent / "_grpc_breaker_pytest.py"
FILES = [PLUGIN, *sorted(PACKAGE.rglob("*.py"))]
CORE = [path for path in FILES if path.parent.name == "_core"]


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Every module a file imports, with the names it takes from it."""
    found: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_core_is_standard_library_only(path: Path) -> None:
    """The core imports the standard library and itself: no gRPC, no OpenTelemetry, no event loop."""
    for name in imports(path):
        root = name.partition(".")[0]
        assert root in sys.stdlib_module_names or name.startswith("grpc_breaker._core."), name
        assert root not in {"asyncio", "socket", "subprocess", "concurrent"}, name


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_core_neither_sleeps_nor_starts_threads(path: Path) -> None:
    """The core never waits and has no thread of its own."""
    attributes = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert not attributes & {"sleep", "Thread", "Timer"}


@pytest.mark.parametrize("path", [*(PACKAGE / "_service_config").glob("*.py")], ids=lambda path: path.name)
def test_the_document_knows_the_core_alone(path: Path) -> None:
    """What reads and writes service configs imports the standard library, the core and itself."""
    for name in imports(path):
        ours = name.startswith(("grpc_breaker._core.", "grpc_breaker._service_config"))
        assert ours or name.partition(".")[0] in sys.stdlib_module_names, name


PAGE = sorted((PACKAGE / "_web").glob("*.py"))


@pytest.mark.parametrize("path", PAGE, ids=lambda path: path.name)
def test_the_live_page_knows_processes_by_the_admin_service_alone(path: Path) -> None:
    """The page imports the standard library, gRPC, the admin service's messages and how commands find processes."""
    ours = ("grpc_breaker._web.", "grpc_breaker.admin.v1.", "grpc_breaker._commands.targets.")
    for name in imports(path):
        known = name.startswith((*ours, "google.protobuf.")) or name == "grpc"
        assert known or name.partition(".")[0] in sys.stdlib_module_names, name


def test_only_its_command_loads_the_live_page() -> None:
    """Nothing else of the package imports the page, and its command does so when it runs."""
    for path in FILES:
        if path not in PAGE:
            top_level = path == PACKAGE / "_commands" / "web.py"
            assert not any("grpc_breaker._web" in name for name in imports(path, top_level=top_level)), path


SYNC = sorted(PACKAGE.glob("_sync*.py"))
AIO = [PACKAGE / "aio.py", *sorted(PACKAGE.glob("_aio*.py"))]
ADAPTERS = {path.stem for path in (*SYNC, *AIO)}


def test_adapters_know_nothing_of_each_other() -> None:
    """Neither adapter imports the other."""
    assert len(SYNC) > 1 < len(AIO)
    for these, others in ((SYNC, AIO), (AIO, SYNC)):
        theirs = {f"grpc_breaker.{path.stem}" for path in others}
        for path in these:
            assert not {name for name in imports(path) if any(f"{name}.".startswith(f"{it}.") for it in theirs)}, path


@pytest.mark.parametrize("name", ["recorder.py", "lines.py", "rotation.py"])
def test_recording_knows_neither_adapters_nor_players(name: str) -> None:
    """What a running client records with imports no adapter, no telemetry, and nothing of what plays a record."""
    recording = ("grpc_breaker._replay.lines.", "grpc_breaker._replay.rotation.")
    for it in imports(PACKAGE / "_replay" / name):
        assert not it.startswith("grpc_breaker._replay.") or it.startswith(recording), it
        assert not {*ADAPTERS, "telemetry", "admin", "_commands"} & set(it.split(".")), it


@pytest.mark.parametrize("path", sorted((PACKAGE / "_replay").glob("*.py")), ids=lambda path: path.name)
def test_a_replay_is_played_without_adapters(path: Path) -> None:
    """What reads, plays and shows a record knows the core, service configs and the meaning of a status, and no more."""
    for it in imports(path):
        assert not {*ADAPTERS, "telemetry", "admin", "_commands", "opentelemetry", "matplotlib"} & set(it.split(".")), (
            it
        )


def test_rpc_knows_neither_adapter_nor_telemetry() -> None:
    """The meaning of a gRPC status is decided without the adapters and without telemetry."""
    for file in ("_rpc.py", "_stack.py", "_error_details.py"):
        known = {name for name in imports(PACKAGE / file) if name.startswith("grpc_breaker.")}
        assert not {name for name in known if {*ADAPTERS, "telemetry", "_metrics"} & set(name.split("."))}, file


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_telemetry_knows_opentelemetry(path: Path) -> None:
    """OpenTelemetry is imported in two files, telemetry and its metrics."""
    if path.name not in {"telemetry.py", "_metrics.py"}:
        assert not any(name.startswith("opentelemetry") for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_of_an_operator_is_loaded_by_calls(path: Path) -> None:
    """Code that makes calls imports neither the admin service nor a command or its page; the service imports no command."""
    commands = ("grpc_breaker._commands", "grpc_breaker._web", "grpc_breaker._cli")
    inside = path.relative_to(PACKAGE.parent).parts
    if {"_commands", "_web"}.intersection(inside) or path.name in {"_cli.py", "__main__.py"}:
        return
    forbidden = commands if "admin" in inside else ("grpc_breaker.admin", *commands)
    assert not {name for name in imports(path) if name.startswith(forbidden)}


def test_plugin_loads_nothing_of_the_package() -> None:
    """The pytest plugin, loaded in every test run of every project, imports nothing of ours until it is used."""
    assert not any(name.startswith("grpc_breaker") for name in imports(PLUGIN, top_level=True))


def test_every_file_says_what_it_is() -> None:
    """Each file begins with a docstring."""
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


PUBLIC = [
    *(path for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")),
    PACKAGE / "__init__.py",
    PACKAGE / "admin" / "__init__.py",
]


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_public_module_says_which_names_are_public(path: Path) -> None:
    """A public module has `__all__`, so that what it imports for itself is not taken for a part of it."""
    assigned = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Assign)]
    assert "__all__" in {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}
