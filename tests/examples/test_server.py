"""The pricing server: its methods, its failures on purpose, and its end."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from examples.pricing import money, switchboard
from examples.pricing.server import EXIT_CODE_OF_DIE
from examples.pricing.switchboard import PricingServer, ServerError
from examples.pricing.v1 import pricing_pb2 as pb
from examples.pricing.v1.pricing_pb2_grpc import PricingStub

PATIENCE = 10.0
GRINDER = pb.GetPriceRequest(product_id="grinder")


@pytest.fixture
def stub(server: PricingServer) -> Iterator[PricingStub]:
    """A client without a breaker, named "tester"."""
    with grpc.insecure_channel(server.address, options=[("grpc.primary_user_agent", "tester")]) as channel:
        yield PricingStub(channel)


def test_a_price_is_told(stub: PricingStub) -> None:
    """GetPrice returns the price of a product."""
    assert money.text(stub.GetPrice(GRINDER, timeout=PATIENCE).price.amount) == "89.00 EUR"


def test_an_unknown_product_is_an_answer(stub: PricingStub) -> None:
    """A product the shop does not sell is NOT_FOUND, with the product's name in the details."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetPrice(pb.GetPriceRequest(product_id="yacht"), timeout=PATIENCE)
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.NOT_FOUND,
        "the shop does not sell 'yacht'",
    )


def test_recommendations_fit_the_basket(stub: PricingStub) -> None:
    """GetRecommendations returns what goes well with the products of a basket, each once, and nothing that is in it."""
    basket = pb.GetRecommendationsRequest(product_ids=["espresso-beans", "filter-papers", "grinder"])
    assert list(stub.GetRecommendations(basket, timeout=PATIENCE).product_ids) == ["milk-jug"]
    unknown = pb.GetRecommendationsRequest(product_ids=["yacht"])
    assert list(stub.GetRecommendations(unknown, timeout=PATIENCE).product_ids) == []


def test_recommendations_fail_like_prices(server: PricingServer, stub: PricingStub) -> None:
    """The trouble of the switchboard is that of GetRecommendations, too."""
    server.switchboard.suffer(error_rate=1.0, error_status="INTERNAL")
    call = stub.GetRecommendations.future(pb.GetRecommendationsRequest(), timeout=PATIENCE)
    assert call.code() is grpc.StatusCode.INTERNAL


def test_a_watcher_hears_of_an_upload(stub: PricingStub) -> None:
    """WatchPrices sends the present price first and then the one that UploadPrices sets."""
    watch = iter(stub.WatchPrices(pb.WatchPricesRequest(product_ids=["grinder"]), timeout=PATIENCE))
    before = next(watch).price
    upload = [pb.UploadPricesRequest(product_id="grinder", amount=money.of("79.90"))]
    answer = stub.UploadPrices(iter(upload), timeout=PATIENCE)
    after = next(watch).price
    assert (answer.received, answer.changed) == (1, 1)
    assert money.text(after.amount) == "79.90 EUR"
    assert after.revision > before.revision


def test_an_upload_with_a_bad_line_changes_nothing(stub: PricingStub) -> None:
    """A price list with a bad line is INVALID_ARGUMENT, names the line, and leaves all prices as they were."""
    upload = [
        pb.UploadPricesRequest(product_id="grinder", amount=money.of("1.00")),
        pb.UploadPricesRequest(product_id="milk-jug", amount=money.of("-1.00")),
    ]
    with pytest.raises(grpc.RpcError) as caught:
        stub.UploadPrices(iter(upload), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith("line 2 needs")
    assert money.text(stub.GetPrice(GRINDER, timeout=PATIENCE).price.amount) == "89.00 EUR"


def test_a_quote_adds_up(stub: PricingStub) -> None:
    """Quote returns for each line its own total and the total so far."""
    basket = {"espresso-beans": 2, "grinder": 1}
    lines = [pb.QuoteRequest(product_id=product_id, quantity=quantity) for product_id, quantity in basket.items()]
    answers = [(money.text(a.line_total), money.text(a.total)) for a in stub.Quote(iter(lines), timeout=PATIENCE)]
    assert answers == [("25.00 EUR", "25.00 EUR"), ("89.00 EUR", "114.00 EUR")]


def test_a_quote_beyond_all_money_is_an_answer(stub: PricingStub) -> None:
    """A basket whose total is larger than an amount can be is OUT_OF_RANGE, which no breaker counts as a failure."""
    upload = pb.UploadPricesRequest(product_id="gold", amount=money.of(str(money.LARGEST)))
    stub.UploadPrices(iter([upload]), timeout=PATIENCE)
    line = pb.QuoteRequest(product_id="gold", quantity=2**31 - 1)
    answers = stub.Quote(iter([line, line]), timeout=PATIENCE)
    assert next(answers).total.units == money.LARGEST * (2**31 - 1)
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE


def test_the_share_of_failing_calls_is_exact(server: PricingServer, stub: PricingStub) -> None:
    """With an error rate of a half, every second call fails with the status that was set."""
    server.switchboard.suffer(error_rate=0.5, error_status="INTERNAL")
    codes = [stub.GetPrice.future(GRINDER, timeout=PATIENCE).code() for _ in range(4)]
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL] * 2


@pytest.mark.parametrize("trouble", [{"hang": True}, {"latency_ms": 3_600_000}], ids=["hang", "latency"])
def test_recovery_is_immediate(server: PricingServer, stub: PricingStub, trouble: dict[str, int]) -> None:
    """Many calls that hang in the server block neither its switchboard nor each other, and go on when the trouble ends."""
    server.switchboard.suffer(hang=bool(trouble.get("hang")), latency_ms=trouble.get("latency_ms", 0))
    waiting = [stub.GetPrice.future(GRINDER, timeout=PATIENCE) for _ in range(100)]
    while server.switchboard.calls().get("tester", 0) < len(waiting):
        assert not any(call.done() for call in waiting)
    server.switchboard.recover()
    assert {call.code() for call in waiting} == {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("rate", "status", "complaint"),
    [(1.5, "", "error_rate must be from 0 to 1"), (1.0, "OK", "error_status must name a gRPC status other than OK")],
)
def test_a_senseless_trouble_is_refused(server: PricingServer, rate: float, status: str, complaint: str) -> None:
    """A trouble that makes no sense is INVALID_ARGUMENT, and the details say why."""
    with pytest.raises(grpc.RpcError) as caught:
        server.switchboard.suffer(error_rate=rate, error_status=status)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in str(caught.value.details())


def test_the_switchboard_command(server: PricingServer, stub: PricingStub) -> None:
    """The switchboard's command makes the server fail, and without an option work again."""
    target = ["--target", server.address]
    assert switchboard.main([*target, "--error-rate", "1", "--error-status", "DATA_LOSS"]) == 0
    assert stub.GetPrice.future(GRINDER, timeout=PATIENCE).code() is grpc.StatusCode.DATA_LOSS
    assert switchboard.main(target) == 0
    assert stub.GetPrice.future(GRINDER, timeout=PATIENCE).code() is grpc.StatusCode.OK


def test_the_switchboard_command_fails_in_words(server: PricingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The command for a server that has died exits with 1 and says so."""
    target = ["--target", server.address]
    assert switchboard.main([*target, "--die"]) == 0
    assert switchboard.main(target) == 1
    assert capsys.readouterr().err.startswith("failed: UNAVAILABLE: ")


def test_a_server_can_die_and_another_take_its_place(server: PricingServer) -> None:
    """A server that is asked to die exits with a code for that, and another can be started on its port."""
    assert server.die() == EXIT_CODE_OF_DIE
    with PricingServer(server.port) as heir, grpc.insecure_channel(heir.address) as channel:
        answer = PricingStub(channel).GetPrice(GRINDER, timeout=PATIENCE, wait_for_ready=True)
        assert answer.price.product_id == "grinder"


def test_a_port_that_is_taken_is_an_error(server: PricingServer) -> None:
    """Starting a second server on a port in use fails with the server's exit code."""
    with pytest.raises(ServerError, match="exit code 1"):
        PricingServer(server.port)


def test_ctrl_c_is_not_for_the_server(server: PricingServer) -> None:
    """Ctrl-C at a terminal reaches the program that started the server, but not the server, which ends last."""
    assert os.getpgid(server._process.pid) != os.getpgrp()


def test_a_start_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the server starts leaves no server behind."""
    started: list[subprocess.Popen[str]] = []

    class Interrupted(io.StringIO):
        def readline(self, *_: object) -> str:
            raise KeyboardInterrupt

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        process = popen(*arguments, **options)
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = Interrupted()
        started.append(process)
        return process

    popen = subprocess.Popen
    monkeypatch.setattr(switchboard.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        PricingServer()
    assert [process.returncode for process in started] == [-signal.SIGKILL]


@pytest.mark.parametrize("end", ["SIGTERM", "stdin"])
def test_a_server_ends_when_it_should(end: str) -> None:
    """The server exits with 0 on SIGTERM, and with `--until-stdin-closes` when its standard input ends."""
    command = [sys.executable, "-W", "error", "-m", "examples.pricing.server", "--port", "0", "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on 127.0.0.1:")
        if end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        assert process.wait(PATIENCE) == 0
