"""The page about the example is true: its commands run as printed, but for the address of the server."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest

from examples.pricing import shop
from examples.pricing.switchboard import PricingServer
from grpc_breaker import Outcome
from grpc_breaker._rpc import verdict

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "example.md").read_text("utf-8")
BLOCKS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
INSTALLING, SERVING, ASKING, CONFIG, TROUBLE, KNOWN, WEB = BLOCKS
PATIENCE = 20.0


def program(command: str) -> tuple[str, list[str]]:
    """The module that a command runs, and its arguments."""
    python, run, module, *arguments = shlex.split(command)
    assert (python, run) == ("python", "-m")
    return module, arguments


def run(command: str, server: PricingServer) -> str:
    """Run a command for this server; returns what it prints."""
    module, arguments = program(command)
    done = subprocess.run(
        [sys.executable, "-m", module, "--target", server.address, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_extras_are_there() -> None:
    """The command that installs names extras that the package has."""
    (command,) = INSTALLING
    extras = re.findall(r"\w+", command.partition("[")[2])
    assert extras
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    assert all(f"\n{extra} = [" in pyproject for extra in extras)


def test_the_server_starts() -> None:
    """The command of the server prints that it listens, and where; Ctrl-C ends it."""
    (command,) = SERVING
    module, arguments = program(command)
    started = [sys.executable, "-m", module, "--port", "0", *arguments]
    with subprocess.Popen(started, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on 127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_the_checkouts_show_prices(server: PricingServer) -> None:
    """The commands of the checkouts run one after the other, and show what the page says of them."""
    basket, baskets, quote, upload, watch = [run(command, server) for command in ASKING]
    assert "total: 27.95 EUR" in basket
    assert baskets.count("89.00 EUR") == 6  # the line and the total, three times
    assert "total so far 42.40 EUR" in quote
    assert upload == "2 lines received, 2 prices changed\n"
    assert "92.50 EUR" in watch


def test_the_service_config_is_right(server: PricingServer) -> None:
    """The command that checks the service config says that it is right, and a checkout takes it by its option."""
    check, checkout = CONFIG
    name, *arguments = shlex.split(check)
    assert name == "grpc-breaker"
    checked = [sys.executable, "-m", "grpc_breaker", *arguments]
    done = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == f"{arguments[-1]}: ok, 5 methods, 0 services\n"
    assert "total: 106.40 EUR" in run(checkout, server)


def test_what_the_page_says_of_the_service_config() -> None:
    """The numbers on the page are those of the service config."""
    document = json.loads((ROOT / "examples" / "pricing" / "resilience.json").read_text("utf-8"))
    entries = {entry["name"][0]["method"]: entry for entry in document["methodConfig"]}
    told = PAGE.partition("## The service config")[2].replace("\n  ", " ")
    price, recommendations = entries["GetPrice"], entries["GetRecommendations"]
    of_price, of_recommendations = re.findall(r"^- `Get\w+` .*$", told, re.MULTILINE)
    assert price["timeout"] == "0.5s" and "half a second" in of_price
    assert price["retryPolicy"]["maxAttempts"] == 2 and "`UNAVAILABLE` is made once more" in of_price
    assert price["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert f"{price['bulkhead']['maxConcurrentCalls']} calls are in flight" in of_price
    assert f"{price['circuitBreaker']['probeDeadline'].strip('s')} s" in of_price
    assert price["fallback"]["lastGood"]["maxAge"] == "3600s" and "an hour" in of_price
    assert f"{recommendations['timeout'].strip('s')} s" in of_recommendations
    assert f"{recommendations['bulkhead']['maxConcurrentCalls']} calls in flight" in of_recommendations
    assert f"`{recommendations['fallback']['function']}`" in of_recommendations
    assert "timeout" not in entries["WatchPrices"]
    assert {entries[method]["timeout"] for method in ("Quote", "UploadPrices")} == {"5s"}


@pytest.mark.parametrize("method", ["GetPrice", "GetRecommendations"])
def test_fallbacks_are_for_what_the_breaker_counts_as_a_failure(method: str) -> None:
    """A fallback of the service config is for refusals, and for the statuses that the breaker counts as failures."""
    document = json.loads((ROOT / "examples" / "pricing" / "resilience.json").read_text("utf-8"))
    (when,) = [it["fallback"]["when"] for it in document["methodConfig"] if it["name"][0]["method"] == method]
    breaker = shop.breakers()[f"pricing.v1.Pricing/{method}"]
    failures = {it.name for it in grpc.StatusCode if verdict(breaker.policy, it, "", 1.0, 2.0) is Outcome.FAILURE}
    assert set(when) == {"refused", *failures} - {"CANCELLED"}


def test_the_switchboard_makes_the_server_fail(server: PricingServer) -> None:
    """A hung server costs a checkout five deadlines, then it is refused; half of the calls fail; then none, then all."""
    hang, hung, errors, half, end, die = TROUBLE
    run(hang, server)
    reasons = re.findall(r"because: (\w+)", run(hung, server))
    assert reasons[:5] == ["DEADLINE_EXCEEDED"] * 5
    assert len(reasons) == 8
    assert "circuit" in reasons[5:]  # all three, unless the open period ends meanwhile
    run(errors, server)
    halved = run(half, server)
    assert ("because: DATA_LOSS" in halved) != ("bestsellers: " in halved)  # one of three calls, and any of them
    run(end, server)
    assert "total: 106.40 EUR\ngoes well with it: " in run(half, server)
    run(die, server)
    with pytest.raises(grpc.RpcError):
        server.switchboard.calls()


def test_last_known_prices_are_shown(server: PricingServer) -> None:
    """A checkout that runs shows last known prices once the server hangs."""
    (command,) = KNOWN
    module, arguments = program(command)
    started = [sys.executable, "-m", module, "--target", server.address, *arguments]
    with subprocess.Popen(started, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert any(line.startswith("total: 27.95 EUR") for line in process.stdout)
            server.switchboard.suffer(hang=True)
            assert any(line.endswith("last known\n") for line in process.stdout)
        finally:
            process.terminate()


@pytest.mark.parametrize("command", WEB, ids=lambda command: shlex.split(command)[1])
def test_the_web_apps_show_prices(command: str, server: PricingServer) -> None:
    """The command of a web app serves the price of a product."""
    setting, name, *arguments = shlex.split(command)
    pytest.importorskip(name)
    assert setting.startswith("PRICING_TARGET=")
    environment = os.environ | {"PRICING_TARGET": server.address, "PYTHONUNBUFFERED": "1"}
    started = [sys.executable, "-m", name, *arguments, "--port", "0"]
    with subprocess.Popen(started, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            where = next(filter(None, (re.search(r"http://(127\.0\.0\.1:\d+)", line) for line in process.stderr)))
            connection = HTTPConnection(where[1], timeout=PATIENCE)
            connection.request("GET", "/price/grinder")
            shown = connection.getresponse().read()
            connection.close()
        finally:
            process.terminate()
    assert json.loads(shown)["price"] == "89.00"
