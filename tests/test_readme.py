"""The README is true: its examples run, and its tables agree with the code."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from examples.pricing.v1.pricing_pb2 import GetPriceRequest, GetPriceResponse, Price
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, State
from grpc_breaker._rpc import verdict
from grpc_breaker.replay import scenario, write_record

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
POLICY = (ROOT / "docs" / "policy.md").read_text("utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text("utf-8")
REGISTRY = (ROOT / "docs" / "registry.md").read_text("utf-8")
PARTS = (ROOT / "docs" / "parts.md").read_text("utf-8")
RECORDING = (ROOT / "docs" / "recording.md").read_text("utf-8")
REPLAY = (ROOT / "docs" / "replay.md").read_text("utf-8")
TELEMETRY = (ROOT / "docs" / "telemetry.md").read_text("utf-8")


def blocks(text: str) -> list[str]:
    """The Python in it."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


BLOCKS = blocks(README)


def test_readme_is_short() -> None:
    """The README has at most 200 lines."""
    assert len(README.splitlines()) <= 200


def run(code: str, folder: Path = ROOT) -> str:
    """Run code in a process of its own, as a user who copies it does; returns what it prints."""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def names_of(code: str) -> dict[str, Any]:
    """What code defines, run alone."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace


def block_with(text: str) -> str:
    """The one block of the README with this text in it."""
    (block,) = (block for block in BLOCKS if text in block)
    return block


def test_first_example_runs_as_printed() -> None:
    """The first example prints what the README says: five calls that fail to connect, then two refusals."""
    lines = run(BLOCKS[0]).splitlines()
    assert [line.split()[0] for line in lines] == ["UNAVAILABLE"] * 7
    assert ["failed to connect" in line for line in lines] == [True] * 5 + [False] * 2
    refused = ["circuit breaker open for pricing.v1.Pricing/GetPrice; next probe in" in line for line in lines]
    assert refused == [False] * 5 + [True] * 2


def test_first_example_has_nine_lines() -> None:
    """The first example is nine lines long."""
    assert len(BLOCKS[0].splitlines()) == 9


@pytest.mark.parametrize("number", range(1, len(BLOCKS)))
def test_every_example_runs_alone(number: int) -> None:
    """Every other Python block of the README runs as printed, alone, in a process of its own."""
    run(BLOCKS[number])


def test_example_of_misspelt_names() -> None:
    """The example of a test that checks names passes."""
    example = next(block for block in blocks(REGISTRY) if "breakers.check" in block)
    names_of(example)["test_policies_name_what_exists"]()


def test_example_of_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """The example of holds prints what holds the breaker and for how long, and ends with everything closed."""
    example = next(block for block in blocks(REGISTRY) if "ttl=600" in block)
    named = names_of(example)
    assert "Hold(reason='prices are wrong since deploy 42'" in capsys.readouterr().out
    assert [str(breaker.state) for breaker in named["breakers"]] == ["closed"]


def test_example_of_targets() -> None:
    """The example of targets has a policy for one target, and breakers of their own for both."""
    (example, *_) = blocks(REGISTRY)
    named = names_of(example)
    assert named["breaker"].name == "pricing.v1.Pricing/GetPrice@eu"
    rates = [named["breakers"]["pricing.v1.Pricing/GetPrice", target].policy.failure_rate for target in ("eu", "us")]
    assert rates == [0.5, 0.8]


def test_the_asyncio_example_opens_a_channel() -> None:
    """The asyncio example's channel is made, guarded and closed."""
    asyncio.run(names_of(block_with("aio.interceptors"))["main"](BreakerRegistry()))


def test_a_refused_caller_shows_the_last_known_price(capsys: pytest.CaptureFixture[str]) -> None:
    """The example of a refused caller returns the last known price, and prints whether it was refused or has failed."""
    breakers = BreakerRegistry()
    breaker = breakers["pricing.v1.Pricing/GetPrice"]
    price = names_of(block_with("def price_or_last_known"))["price_or_last_known"]
    with grpc.insecure_channel("localhost:1") as bare:
        stub = PricingStub(grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers)))
        for act in (breaker.force_open, breaker.reset):
            act()
            assert price(stub, GetPriceRequest(product_id="grinder"), "last known") == "last known"
    refused, failed = capsys.readouterr().out.splitlines()
    assert refused == "next probe in None"
    assert failed.startswith("the server failed: StatusCode.")


def test_the_example_of_operation_prints_a_change_and_a_snapshot() -> None:
    """The example of operation prints the change of state that it causes, and the registry as plain data."""
    change, snapshot = run(block_with("force_open(")).splitlines()
    assert change == "pricing.v1.Pricing/GetPrice closed -> forced_open forced_open"
    assert "'state': 'forced_open'" in snapshot


def test_the_example_of_a_test_passes() -> None:
    """The example of a user's own test passes."""
    names_of(block_with("hold_open"))["test_an_outage"]()


def test_knobs_table_shows_every_field_and_its_default() -> None:
    """Each field of `BreakerPolicy` is in the README or in the page about policies, with its default."""
    rows = [line for line in (README + POLICY).splitlines() if line.startswith("| `")]
    for field in fields(BreakerPolicy):
        row = next((row for row in rows if f"`{field.name}`" in row.split("|")[1]), None)
        assert row is not None, field.name
        named = re.findall(r"`(\w+)`", row.split("|")[1])
        defaults = [text.strip("` ") for text in row.split("|")[2].split(",")]
        if defaults[-1] == "as many" or len(defaults) < len(named):
            continue
        default = getattr(BreakerPolicy(), field.name)
        assert defaults[named.index(field.name)] == str(default), field.name


def test_status_table_is_what_the_code_does() -> None:
    """Each status is in the README's row of its outcome."""
    for code in grpc.StatusCode:
        outcome = verdict(BreakerPolicy(), code, "", 1.0, 2.0)
        row = next(
            row for row in README.splitlines() if row.startswith("| `") and f"`{code.name}`" in row.split("|")[1]
        )
        assert str(outcome) in row.split("|")[2], code


def test_states_table_has_every_state() -> None:
    """Each state has a row in the README."""
    for state in State:
        assert f"| `{state}` |" in README


class Shop:
    """A pricing service that works until it is told not to."""

    works = True

    def price(self, request: GetPriceRequest, context: Any) -> GetPriceResponse:
        """A price, or UNAVAILABLE."""
        if not self.works:
            context.abort(grpc.StatusCode.UNAVAILABLE, "out of order")
        return GetPriceResponse(price=Price(product_id=request.product_id))


@pytest.fixture
def parts() -> dict[str, Any]:
    """What the Python blocks of the page about the parts define, run as printed, one after another."""
    return names_of("\n".join(blocks(PARTS)))


@pytest.fixture
def shop(parts: dict[str, Any]) -> Iterator[tuple[Shop, PricingStub]]:
    """A pricing service, and a stub whose calls have the policies of the page."""
    service = Shop()
    handler = grpc.unary_unary_rpc_method_handler(
        service.price, GetPriceRequest.FromString, GetPriceResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler("pricing.v1.Pricing", {"GetPrice": handler})
    server = grpc.server(futures.ThreadPoolExecutor(2), [handlers])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as bare:
        yield service, PricingStub(grpc.intercept_channel(bare, CircuitBreakerInterceptor(parts["breakers"])))
    server.stop(None).wait()


def test_every_block_of_the_parts_runs_in_order() -> None:
    """The Python blocks of the page about the parts run as printed, one after another, in a process of their own."""
    run("\n".join(blocks(PARTS)))


def test_the_parts_tell_a_price_from_the_last_known_one(parts: dict[str, Any], shop: tuple[Shop, PricingStub]) -> None:
    """`price` of the page says which of its answers comes from the fallback."""
    (service, stub), request = shop, GetPriceRequest(product_id="grinder")
    answer, kind = parts["price"](stub, request)
    service.works = False
    assert (kind, parts["price"](stub, request)) == ("price", (answer, "last known price"))


def test_the_parts_catch_refusals_and_failures(
    parts: dict[str, Any], shop: tuple[Shop, PricingStub], capsys: pytest.CaptureFixture[str]
) -> None:
    """`price_or_none` of the page prints what refused a call, and how the server failed."""
    (service, stub), request = shop, GetPriceRequest(product_id="grinder")
    service.works = False
    assert parts["price_or_none"](stub, request) is None
    parts["breakers"]["pricing.v1.Pricing/GetPrice"].force_open()
    assert parts["price_or_none"](stub, request) is None
    failed, refused = capsys.readouterr().out.splitlines()
    assert failed == "StatusCode.UNAVAILABLE out of order"
    assert refused.startswith("breaker circuit breaker forced_open for pricing.v1.Pricing/GetPrice")


def test_the_batch_job_of_the_parts_gets_its_price(parts: dict[str, Any], shop: tuple[Shop, PricingStub]) -> None:
    """`price_of` of the page waits until its call would be admitted, and returns the price."""
    _, stub = shop
    assert parts["price_of"](stub, GetPriceRequest(product_id="grinder")).price.product_id == "grinder"


def test_every_recipe_runs_in_order() -> None:
    """Every Python block of the recipes runs as printed, in a process of its own: they set global providers and handlers."""
    here, _, _ = RECIPES.partition("## Retries with ")  # the rest needs other packages: tests/clients/test_retries.py
    run("\n".join(blocks(here)))


def test_policy_page_classifies_results() -> None:
    """The classifier of the policy page takes a response with status 503 for a failure, and 404 for a success."""
    (code,) = blocks(POLICY)
    breaker = names_of(code)["breaker"]
    for status in (404, 503):
        breaker(SimpleNamespace)(status_code=status)
    with pytest.raises(LookupError), breaker.admit():
        raise LookupError
    totals = breaker.snapshot()["totals"]
    assert (totals["success"], totals["failure"]) == (1, 2)


@pytest.mark.parametrize("code", [*blocks(RECORDING), *blocks(TELEMETRY)])
def test_each_block_about_recording_and_telemetry_runs_alone(code: str, tmp_path: Path) -> None:
    """Each Python block of these pages runs as printed, alone, in a process and a folder of its own."""
    run(code, tmp_path)


def test_the_example_of_a_replay_prints_its_report(tmp_path: Path) -> None:
    """The Python block about a replay plays its two policies, with files of the names that are in it."""
    write_record(scenario("short-burst", seconds=60), tmp_path / "traffic.jsonl")
    (tmp_path / "now.json").write_text('{"methodConfig": [{"name": [{}], "circuitBreaker": {}}]}', "utf-8")
    (code,) = blocks(REPLAY)
    said = run(code, tmp_path)
    assert "\nnow: " in said
    assert "\nnext: " in said
