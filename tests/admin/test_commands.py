"""The command `grpc-breaker`, against real processes on real sockets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, State, __version__
from grpc_breaker._cli import main
from grpc_breaker.admin import serve_admin
from grpc_breaker.testing import FakeClock
from tests.admin.conftest import fail
from tests.admin.serving import address_of
from tests.admin.shop import shops

GET, LIST, COUNT = "pricing.v1.Pricing/GetPrice", "pricing.v1.Pricing/ListPrices", "stock.v1.Stock/Count@eu"
ROOT = Path(__file__).parents[2]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command for the processes in a folder: its exit code, its output, and what it complains of."""

    def run(name: str, *arguments: str, where: tuple[str, ...] | None = None) -> tuple[int, str, str]:
        capsys.readouterr()
        if where is None:
            arguments, where = ("--timeout", "30", *arguments), ("--directory", str(folder))
        try:
            code = main([name, *arguments, *where])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


def words(line: str) -> list[str]:
    """The cells of a line of a table."""
    return re.split(r"  +", line.strip())


def test_list(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """A table with what refuses calls first, and why; and all of it in one line."""
    fail(breakers, LIST, "no\x1b[31m route\n")
    breakers[GET].admit()
    with serve_admin(breakers, directory=folder):
        code, out, complaints = command("list")
    assert (code, complaints) == (0, "")
    lines = out.splitlines()
    assert words(lines[0]) == [
        "STATE",
        "BREAKER",
        "SINCE",
        "NEXT",
        "WINDOW",
        "IN FLIGHT",
        "REFUSED",
        "PROCESS",
        "WHY",
    ]
    first = words(lines[1])
    assert first[:2] + first[4:7] == ["open", LIST, "2/3 failed", "0", "0"]
    assert first[8] == r"failure_threshold: UNAVAILABLE no\x1b[31m route\n"
    assert [words(line)[:2] for line in lines[2:4]] == [["closed", GET], ["closed", COUNT]]
    assert words(lines[2])[5] == "1"
    assert lines[-1] == "1 of 3 breakers in 1 process refuses calls"


def test_list_of_several_processes(command: Command, folder: Path) -> None:
    """All processes of the host are asked; one that gives no answer is named, and the others are shown."""
    with shops(folder, 3) as (first, second, stopped):
        first.fail(GET)
        stopped.pause()
        code, out, complaints = command("list", "--timeout", "0.5")
        stopped.resume()
    assert code == 3
    assert complaints == f"grpc-breaker: unix:{stopped.path}: no answer in time: stopped, or too busy\n"
    processes = {f":{words(line)[7].rpartition(':')[2]}" for line in out.splitlines()[1:-2]}
    assert processes == {f":{first.pid}", f":{second.pid}"}
    assert out.splitlines()[-1] == "1 of 4 breakers in 2 processes refuses calls"


def test_exit_codes_of_list(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """`--exit-code` ends with 1 where a breaker that is shown refuses calls."""
    with serve_admin(breakers, directory=folder):
        assert command("list", "--exit-code")[0] == 0
        fail(breakers, GET)
        assert command("list")[0] == 0
        assert command("list", "--exit-code")[0] == 1
        assert command("list", LIST, "--exit-code")[0] == 0
        assert command("list", "--state", "closed", "--exit-code")[0] == 0
        assert command("list", "--state", "open", "--exit-code")[0] == 1


def test_list_of_names(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """`--names` prints names alone, each once; a filter is a name and states."""
    fail(breakers, GET)
    with serve_admin(breakers, directory=folder):
        assert command("list", "--names")[1].splitlines() == [GET, LIST, COUNT]
        assert (
            command("list", "--names", "pricing.v1.Pricing", "--state", "open", "--state", "half_open")[1] == f"{GET}\n"
        )
        assert command("list", "none.v1.None")[1] == "0 of 0 breakers in 1 process refuse calls\n"


def test_list_as_json(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """`--json` is one document: processes with their breakers, and those that gave no answer."""
    fail(breakers, GET)
    breakers[LIST].force_open(ttl=60, reason="vendor down")
    with serve_admin(breakers, directory=folder, allow_changes=True) as server:
        code, out, _ = command("list", "--json", where=("--target", str(server.path), "--target", "127.0.0.1:1"))
    assert code == 3
    document = json.loads(out)
    (process,) = document["processes"]
    assert (process["pid"], process["allow_changes"]) == (os.getpid(), True)
    ill, held, well = process["breakers"]
    assert (ill["name"], ill["state"], ill["condition"], ill["failures"]) == (GET, "open", "failure_threshold", 2)
    assert ill["last_failure"] == {"status": "UNAVAILABLE", "details": "failed to connect"}
    assert 50 < ill["retry_after"] <= 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ill["since"])
    assert (held["hold"]["reason"], held["state"]) == ("vendor down", "forced_open")
    assert (well["since"], well["hold"], well["last_failure"], well["retry_after"]) == (None, None, None, 0)
    (unreachable,) = document["unreachable"]
    assert unreachable["target"] == "127.0.0.1:1"
    assert unreachable["error"].startswith("UNAVAILABLE: failed to connect")


def test_get(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """Everything about one breaker: counts, policy, changes, failures."""
    fail(breakers, GET)
    with pytest.raises(Exception, match="circuit breaker open"):
        breakers[GET].admit()
    with serve_admin(breakers, directory=folder):
        code, out, complaints = command("get", GET)
    assert (code, complaints) == (0, "")
    assert out.startswith(f"{GET}  in ")
    for line in (
        r"  state      open",
        r"  why        failure_threshold: UNAVAILABLE failed to connect",
        r"  since      \d\d:\d\d:\d\d, \d\.\ds ago",
        r"  next probe in \d+s",
        r"  in flight  0",
        r"  window     2 of 3 calls failed, 0 slow, 2 failures in a row",
        r"  calls      1 succeeded, 2 failed, 0 ignored, 0 too late to count",
        r"  refused    1, by breaker 1",
        r"  policy     .*failure_threshold 2, .*reset_timeout 60.*",
        rf"  last changes\n    \d\d:\d\d:\d\d  {GET}  closed -> open  failure_threshold: UNAVAILABLE failed to connect",
        r"  last failures\n    UNAVAILABLE failed to connect\n    UNAVAILABLE failed to connect",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), (line, out)
    assert "held for" not in out


def test_get_a_breaker_that_is_well(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """What there is nothing to say of is left out."""
    with serve_admin(breakers, directory=folder):
        out = command("get", LIST)[1]
    assert "why" not in out
    assert "since" not in out
    assert "last" not in out


def test_get_what_is_held_or_hangs(command: Command, folder: Path) -> None:
    """A hold says for how long; calls that hang are counted; a trial is said to be one."""
    breakers = BreakerRegistry(
        default=BreakerPolicy(hung_after=0.000001, failure_threshold=5, enforcement_percentage=0)
    )
    held = breakers["a.B/C"].admit()
    breakers["a.B/C"].admit().success()
    with serve_admin(breakers, directory=folder):
        out = command("get", "a.B/C")[1]
        assert "in flight  1, 1 of them hung" in out
        assert "1 (1 hung)" in command("list")[1]
        breakers["a.B/C"].force_open(ttl=3 * 3600)
        out = command("get", "a.B/C")[1]
        assert re.search("held for   another 2h59m", out)
        assert "why        on trial, refuses nothing: held, no reason given" in out
        breakers["a.B/C"].disable(reason="for good")
        assert "held for   good, until another order" in command("get", "a.B/C")[1]
        assert words(command("list")[1].splitlines()[1])[3] == "order"
    held.success()


def test_time_spans_and_reasons(command: Command, folder: Path) -> None:
    """A span has the two units that say most; slowness opens without a failure."""
    policy = BreakerPolicy(slow_call_duration=0.5, minimum_calls=1, reset_timeout=59.5, reset_timeout_jitter=0)
    clock = FakeClock()
    breakers = BreakerRegistry(default=policy, clock=clock)
    permit = breakers["a.B/Slow"].admit()
    clock.advance(1)
    permit.success()
    for name, seconds in (("Minutes", 330), ("Hours", 7500), ("Days", 200_000)):
        breakers[f"a.B/{name}"].force_open(ttl=seconds, reason="x")
    with serve_admin(breakers, directory=folder):
        rows = {cells[1]: cells for cells in map(words, command("list")[1].splitlines()) if len(cells) > 7}
    assert rows["a.B/Slow"][3::5] == ["59s", "slow_call_rate"]
    assert [rows[f"a.B/{name}"][3] for name in ("Minutes", "Hours", "Days")] == ["5m30s", "2h05m", "2d07h"]


def test_get_as_json(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """`--json` has the snapshot of the process, with its numbers as they were."""
    fail(breakers, GET)
    with serve_admin(breakers, directory=folder):
        code, out, _ = command("get", GET, "--json")
    (process,) = json.loads(out)["processes"]
    assert code == 0
    assert process["breaker"]["name"] == GET
    assert process["snapshot"]["window"] == breakers[GET].snapshot()["window"]
    (change,) = process["changes"]
    assert (change["previous"], change["state"], change["reason"]) == ("closed", "open", "failure_threshold")
    assert len(change["last_failures"]) == 2


def test_get_what_is_not_there(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """A name that no process has ends with 1 and names the nearest; one that some have does not."""
    with serve_admin(breakers, directory=folder), shops(folder):
        code, out, complaints = command("get", "stock.v1.Stock/Count@us")
        assert (code, out) == (1, "")
        assert "did you mean 'stock.v1.Stock/Count@eu'?" in complaints
        code, out, complaints = command("get", COUNT)
        assert (code, complaints) == (0, "")


def test_force_open_disable_and_reset(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """Operators hold and reset breakers in all processes; each process says which."""
    with serve_admin(breakers, directory=folder, allow_changes=True) as server:
        arguments = ("pricing.v1.Pricing", "--for", "1h30m", "--reason", "vendor down")
        code, out, complaints = command("force-open", *arguments)
        assert (code, complaints) == (0, "")
        assert out == f"unix:{server.path}: 2 breakers: {GET}, {LIST}\n"
        hold = breakers[GET].hold
        assert hold is not None
        assert (breakers[GET].state, hold.reason) == (State.FORCED_OPEN, "vendor down")
        assert 5390 < (hold.left(breakers._clock()) or 0) <= 5400
        code, out, _ = command("disable", GET, "--for", "2d", "--reason", "x", "--json")
        assert (code, json.loads(out)["processes"][0]["breakers"]) == (0, [GET])
        assert breakers[GET].state is State.DISABLED
        assert command("reset", "pricing.v1.Pricing")[0] == 0
        assert breakers[LIST].state is State.CLOSED


def test_orders_that_not_all_processes_take(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """3 where a process refuses; 1 where no process knows the name; 0 where some do not know it."""
    order = ("--for", "10s", "--reason", "x")
    with serve_admin(breakers, directory=folder, allow_changes=True), shops(folder) as (shop,):
        code, out, complaints = command("disable", COUNT, *order)
        assert code == 3
        assert f"unix:{shop.path}: PERMISSION_DENIED: this process allows no changes" in complaints
        assert COUNT in out
        where = ("--timeout", "30", "--target", str(folder / f"{os.getpid()}.sock"))
        code, out, complaints = command("reset", "pricing.v1.Prizing", where=where)
        assert (code, out) == (1, "")
        assert "did you mean 'pricing.v1.Pricing'?" in complaints
        assert command("reset", "warehouse", where=where)[1].endswith(": 0 breakers: none yet\n")
        assert command("force-open", "@ ", *order, where=where)[0] == 2
    with serve_admin(breakers, directory=folder, allow_changes=True), shops(folder, 1, "allow_changes"):
        code, out, _ = command("disable", COUNT, *order, "--json")
        assert code == 0
        assert [it["error"][:40] for it in json.loads(out)["unknown"]] == ["no breaker and no policy has the name 's"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["force-open", GET, "--reason", "x"],
        ["force-open", GET, "--for", "10m"],
        ["force-open", GET, "--reason", "x", "--for", "10"],
        ["force-open", GET, "--reason", "x", "--for", "8d"],
        ["force-open", GET, "--reason", "x", "--for", ""],
        ["list", "--target", "nowhere"],
        ["list", "--timeout", "0"],
        ["list", "--timeout", "soon"],
        ["list", "--state", "ajar"],
        ["watch", "--interval", "0.1"],
        ["watch", "--interval", "often"],
        ["completion", "fish"],
    ],
)
def test_wrong_arguments(arguments: list[str], command: Command) -> None:
    """What is wrong on the command line ends with 2, and says how it is used."""
    code, _, complaints = command(*arguments, where=())
    assert code == 2
    assert "usage: grpc-breaker" in complaints


def test_no_process(command: Command, folder: Path) -> None:
    """Where no process serves its breakers, the command says where it looked, and ends with 3."""
    code, out, complaints = command("list")
    assert (code, out) == (3, "")
    assert f"looked in {folder}" in complaints


def test_a_directory_that_is_not_to_be_trusted(command: Command, folder: Path) -> None:
    """A directory that others may enter is not looked at."""
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    code, _, complaints = command("list")
    assert code == 2
    assert "not to be trusted" in complaints


def test_servers_without_the_service(command: Command) -> None:
    """A server that has no such service is told apart from one that is gone."""
    from concurrent import futures

    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    code, _, complaints = command("list", where=("--target", f"127.0.0.1:{port}"))
    server.stop(None)
    assert code == 3
    assert complaints == f"grpc-breaker: 127.0.0.1:{port}: it has no admin service for breakers\n"


def test_targets_over_tcp(command: Command, folder: Path, breakers: BreakerRegistry) -> None:
    """A process may be asked by its address, which is what it is called then."""
    with address_of("grpc", folder, breakers) as address:
        code, out, _ = command("list", where=("--target", address))
    assert code == 0
    assert words(out.splitlines()[1])[7] == address


def test_tls(command: Command, tmp_path: Path, breakers: BreakerRegistry) -> None:
    """Certificates are checked, and a client's own can be shown; a file that is not there is said to be missing."""
    from concurrent import futures

    from grpc_breaker.admin import add_breaker_admin_servicer

    subject = "-subj /CN=shop.test -addext subjectAltName=DNS:shop.test -keyout key.pem -out cert.pem"
    made = subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 {subject}".split(),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    key, cert = (str(tmp_path / name) for name in ("key.pem", "cert.pem"))
    credentials = grpc.ssl_server_credentials(
        [(Path(key).read_bytes(), Path(cert).read_bytes())], Path(cert).read_bytes(), require_client_auth=True
    )
    server = grpc.server(futures.ThreadPoolExecutor(1))
    add_breaker_admin_servicer(server, breakers)
    target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    tls = ("--target", target, "--ca-file", cert, "--cert-file", cert, "--key-file", key)
    assert command("list", where=(*tls, "--server-name", "shop.test"))[0] == 0
    assert command("list", where=(*tls, "--server-name", "other.test"))[0] == 3
    assert command("list", where=("--target", target, "--tls"))[0] == 3
    for file, content in (("empty.pem", b""), ("cert.der", b"\x30\x82")):
        (tmp_path / file).write_bytes(content)
        where = ("--target", target, "--ca-file", str(tmp_path / file), "--server-name", "shop.test")
        assert command("list", where=where)[::2] == (2, f"grpc-breaker: {tmp_path / file} is no PEM file\n")
    server.stop(None)
    code, _, complaints = command("list", where=("--target", target, "--ca-file", str(tmp_path / "gone.pem")))
    assert code == 2
    assert "gone.pem" in complaints
    for alone in ("--cert-file", "--key-file"):
        code, _, complaints = command("list", where=("--target", target, alone, cert))
        assert (code, complaints) == (2, "grpc-breaker: --cert-file and --key-file belong together: one is missing\n")


@pytest.mark.parametrize(
    "tls", [("--ca-file", ""), ("--cert-file", "", "--key-file", ""), ("--server-name", "shop.test")]
)
def test_nothing_is_asked_in_plain_text_that_was_to_be_tls(
    command: Command, folder: Path, breakers: BreakerRegistry, tls: tuple[str, ...]
) -> None:
    """Whatever is said of certificates asks for TLS, also the empty value of a variable that is not set."""
    with address_of("grpc", folder, breakers) as address:
        assert command("list", where=("--target", address))[0] == 0
        assert command("list", where=("--target", address, *tls))[0] in {2, 3}


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal(colour: bool, folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal no line is longer than it; why a breaker is open has a line of its own; NO_COLOR is heeded."""
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False) if colour else monkeypatch.setenv("NO_COLOR", "1")
    name = f"{'long.' * 20}Service/Method"
    fail(breakers, name, "x" * 100)
    with serve_admin(breakers, directory=folder):
        assert main(["list", "--directory", str(folder)]) == 0
    lines = terminal.getvalue().splitlines()
    assert lines[1].startswith("\x1b[31mopen\x1b[0m" if colour else "open ")
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in lines]
    assert max(len(line) for line in plain) == 70
    assert "…" in plain[1]
    assert "Service/Method" in plain[1]
    assert plain[2].strip().startswith("failure_threshold: UNAVAILABLE xxx")
    assert plain[2].endswith("…")


def test_nobody_reads(folder: Path, breakers: BreakerRegistry) -> None:
    """`grpc-breaker list | head` ends without a traceback, also where nothing is read."""
    with serve_admin(breakers, directory=folder):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "grpc_breaker", "list", "--directory", str(folder)],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_nobody_reads_here(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the function, whose output may be anything with a file."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output, serve_admin(breakers, directory=folder):
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["list", "--directory", str(folder)]) == 141
        monkeypatch.undo()


def run_with(redirection: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command from a shell that redirects its output: its exit code, and what comes through all the same."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m grpc_breaker "$@" {redirection}', sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("redirection", "complaint"),
    [
        (">/dev/full", "grpc-breaker: the output cannot be written: No space left on device\n"),
        (">/dev/full 2>&1", ""),
    ],
)
def test_full_disk(folder: Path, breakers: BreakerRegistry, redirection: str, complaint: str) -> None:
    """Where the output cannot be written, that is not the answer no: the command says so without a traceback."""
    with serve_admin(breakers, directory=folder):
        assert run_with(redirection, "list", "--exit-code", "--directory", str(folder)) == (3, complaint)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output(folder: Path, breakers: BreakerRegistry, redirection: str) -> None:
    """Started without an output, or without one for complaints, the command does the same, and says it to nobody."""
    with serve_admin(breakers, directory=folder) as server:
        asked = ("--target", str(server.path), "--target", f"unix:{folder}/0.sock")
        code, out = run_with(redirection, "list", *asked)
    assert code == 3
    assert "Traceback" not in out


def test_closed_input() -> None:
    """Started without an input, the command reads nothing from it."""
    complaint = "grpc-breaker replay: standard input: is empty: a record begins with a header\n"
    assert run_with("<&-", "replay", "-") == (2, complaint)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_here(folder: Path, breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of the function: a full disk, and no output at all."""
    with Path("/dev/full").open("w") as output, serve_admin(breakers, directory=folder):
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["list", "--directory", str(folder)]) == 3
        monkeypatch.setattr(sys, "stdout", None)
        assert main(["list", "--directory", str(folder)]) == 0
        sys.stdout.close()
        monkeypatch.undo()


def test_output_without_unicode(folder: Path, breakers: BreakerRegistry) -> None:
    """What the encoding of the output does not have is written out."""
    breakers["shop.v1.Läden/Öffnen"]
    with serve_admin(breakers, directory=folder):
        code, out = run_with("", "list", "--names", "--directory", str(folder), PYTHONIOENCODING="ascii")
    assert (code, out.splitlines()[-2]) == (0, r"shop.v1.L\xe4den/\xd6ffnen")


def test_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the command without a traceback."""
    from grpc_breaker._commands import listing

    def interrupted(_options: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "run", interrupted)
    assert main(["list"]) == 130


COMPLETE = """
eval "$({python} -m grpc_breaker completion bash)"
grpc-breaker() {{ {python} -m grpc_breaker "$@" --directory {folder}; }}
complete_line() {{
    COMP_LINE="$1"; COMP_POINT=${{#1}}; shift; COMP_WORDS=("$@"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _grpc_breaker grpc-breaker
    echo "${{COMPREPLY[@]}}"
}}
{lines}
"""


def test_version(command: Command) -> None:
    """The command says which version it is of."""
    assert command("--version", where=()) == (0, f"grpc-breaker {__version__}\n", "")


def test_completion_is_a_script(command: Command) -> None:
    """The command prints what bash is to run, with every command's options."""
    code, out, _ = command("completion", "bash", where=())
    assert (code, out.splitlines()[-1]) == (0, "complete -F _grpc_breaker grpc-breaker")
    assert re.search(r'^ +force-open\) words="[^"]*--for [^"]*--reason ', out, re.MULTILINE)


@pytest.mark.once
def test_completion(folder: Path, breakers: BreakerRegistry) -> None:
    """Bash completes commands, options, states and the names of breakers."""
    asked = {
        "grpc-breaker wa": ["grpc-breaker", "wa"],
        "grpc-breaker force-open --r": ["grpc-breaker", "force-open", "--r"],
        "grpc-breaker list --state fo": ["grpc-breaker", "list", "--state", "fo"],
        "grpc-breaker get pricing.v1.Pricing/L": ["grpc-breaker", "get", "pricing.v1.Pricing/L"],
        "grpc-breaker get stock.v1.Stock/Count@e": ["grpc-breaker", "get", "stock.v1.Stock/Count", "@", "e"],
        "grpc-breaker completion ": ["grpc-breaker", "completion", ""],
    }
    lines = "\n".join(f"complete_line '{line}' {' '.join(repr(it) for it in parts)}" for line, parts in asked.items())
    script = COMPLETE.format(python=sys.executable, folder=folder, lines=lines)
    with serve_admin(breakers, directory=folder):
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == ["watch", "--reason", "forced_open", LIST, "eu", "bash"]


@pytest.mark.once
def test_completion_runs_nothing(folder: Path, tmp_path: Path) -> None:
    """A name is whatever a client called: bash neither runs what is in it, nor gets it onto the line without quotes."""
    breakers = BreakerRegistry()
    for name in (
        "shop.v1.Shop/$(touch${IFS}made)",
        "shop.v1.Shop/`echo>made`",
        "shop.v1.Shop/it's",
        "shop.v1.Shop/Get",
    ):
        breakers[name]
    line = "complete_line 'grpc-breaker get shop.v1.Shop/' grpc-breaker get shop.v1.Shop/"
    here = "\n".join([f"cd {tmp_path}", line])
    script = COMPLETE.format(python=f"env PYTHONPATH={ROOT} {sys.executable}", folder=folder, lines=here)
    with serve_admin(breakers, directory=folder):
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert list(tmp_path.iterdir()) == []
    assert done.stderr == ""
    assert done.stdout == (
        r"shop.v1.Shop/\$\(touch\$\{IFS\}made\) shop.v1.Shop/Get shop.v1.Shop/\`echo\>made\` shop.v1.Shop/it\'s"
        "\n"
    )
