"""The two checkouts, blocking and asyncio, with a server that works, fails and dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio
import pytest

from examples.pricing import checkout, checkout_aio, shop
from examples.pricing.server import PRICE_LIST
from examples.pricing.shop import Item, Receipt, Source
from examples.pricing.switchboard import PricingServer
from examples.pricing.v1 import pricing_pb2
from grpc_breaker import BreakerRegistry, State

GET_PRICE = "pricing.v1.Pricing/GetPrice"
GET_RECOMMENDATIONS = "pricing.v1.Pricing/GetRecommendations"
BASKET = (Item("espresso-beans", 2), Item("filter-papers"))


class Main(Protocol):
    """A checkout's command line."""

    def __call__(self, arguments: Sequence[str]) -> int:
        """Run it; return the exit code."""
        ...


class Price(Protocol):
    """Prices a basket."""

    def __call__(self, basket: Sequence[Item] = BASKET) -> Receipt:
        """Return its receipt."""
        ...


BOTH_MAINS = pytest.mark.parametrize("main", [checkout.main, checkout_aio.main], ids=["sync", "aio"])


@pytest.fixture
def breakers(config: Path) -> BreakerRegistry:
    """The shop's own breakers, with long deadlines."""
    return shop.breakers(config)


@pytest.fixture(params=["sync", "aio"])
def price(request: pytest.FixtureRequest, server: PricingServer, breakers: BreakerRegistry) -> Iterator[Price]:
    """Prices the basket, or another one, at a checkout of either kind."""
    if request.param == "sync":
        with checkout.connect(server.address, breakers) as channel:
            blocking = checkout.Checkout(channel)
            yield lambda basket=BASKET: blocking.price(basket)
        return
    with asyncio.Runner() as runner:

        async def open_checkout() -> tuple[grpc.aio.Channel, checkout_aio.Checkout]:
            aio_channel = checkout_aio.connect(server.address, breakers)
            return aio_channel, checkout_aio.Checkout(aio_channel)

        aio_channel, looping = runner.run(open_checkout())
        yield lambda basket=BASKET: runner.run(looping.price(basket))
        runner.run(aio_channel.close(None))


def sources(receipt: Receipt) -> set[Source]:
    """Where a receipt's prices come from."""
    return {line.source for line in receipt.lines}


def test_a_well_service_gives_fresh_prices(price: Price) -> None:
    """While the service works a receipt is complete, all its prices are fresh, and it recommends what fits the basket."""
    receipt = price()
    assert sources(receipt) == {Source.FRESH}
    assert str(receipt).splitlines()[-2:] == ["total: 27.95 EUR", "goes well with it: grinder, milk-jug"]


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"])
def test_an_ill_service_gives_last_known_prices(server: PricingServer, price: Price, status: str) -> None:
    """When calls fail a receipt has the last known prices, says so at each, and recommends the bestsellers."""
    price()
    server.switchboard.suffer(error_rate=1.0, error_status=status)
    receipt = price()
    assert sources(receipt) == {Source.LAST_KNOWN}
    assert all(line.endswith("  last known") for line in str(receipt).splitlines()[: len(BASKET)])
    assert str(receipt).splitlines()[-2:] == ["total: 27.95 EUR", "bestsellers: milk-jug"]


def test_a_status_that_is_no_outage_is_told(server: PricingServer, price: Price) -> None:
    """A failure for which there is no fallback leaves prices unavailable and recommends nothing; the receipt says why."""
    price()
    server.switchboard.suffer(error_rate=1.0, error_status="PERMISSION_DENIED")
    receipt = price()
    assert sources(receipt) == {Source.UNAVAILABLE}
    assert str(receipt).splitlines()[-1] == "because: PERMISSION_DENIED: the pricing service is in trouble"


def test_a_call_that_fails_once_is_made_again(server: PricingServer, price: Price, breakers: BreakerRegistry) -> None:
    """A call for a price that fails with UNAVAILABLE is made again: of two prices one needs it, and both are fresh."""
    breakers[GET_RECOMMENDATIONS].force_open()  # every second call of the server will fail: only those for prices count
    server.switchboard.suffer(error_rate=0.5)
    assert sources(price([Item("grinder")])) == {Source.FRESH}
    assert sources(price([Item("grinder")])) == {Source.FRESH}
    assert breakers[GET_PRICE].snapshot()["retries"] == 1


def test_an_open_breaker_keeps_calls_from_the_server(
    server: PricingServer, price: Price, breakers: BreakerRegistry
) -> None:
    """Once failures have opened both breakers, baskets are still priced, without a call to the server."""
    price()
    server.switchboard.suffer(error_rate=1.0)
    while {breakers[name].state for name in (GET_PRICE, GET_RECOMMENDATIONS)} != {State.OPEN}:
        price()  # failures that may be one incident take a second
    for name in (GET_PRICE, GET_RECOMMENDATIONS):
        breakers[name].force_open()  # or its open period might end here
    heard = server.switchboard.calls()
    receipt = price()
    assert server.switchboard.calls() == heard
    assert sources(receipt) == {Source.LAST_KNOWN}
    assert receipt.offer == "bestsellers: milk-jug"


def test_a_refused_call_without_a_last_known_price(price: Price, breakers: BreakerRegistry) -> None:
    """A refused call for a price that was never known leaves it unavailable, and the receipt says what refused it."""
    breakers[GET_PRICE].force_open()
    receipt = price()
    assert sources(receipt) == {Source.UNAVAILABLE}
    assert receipt.lines[0].why.startswith(f"circuit breaker forced_open for {GET_PRICE}")


def test_a_basket_larger_than_the_bulkhead(price: Price, breakers: BreakerRegistry) -> None:
    """A basket of more lines than calls may be in flight has every price: the bulkhead refuses none of its calls."""
    most = breakers[GET_PRICE].snapshot()["limits"]["max_concurrent_calls"]
    receipt = price([Item(product_id) for product_id in PRICE_LIST] * most)
    assert sources(receipt) == {Source.FRESH}
    assert breakers[GET_PRICE].snapshot()["refusals"] == {}


def test_a_dead_server_leaves_prices_unavailable(server: PricingServer, price: Price) -> None:
    """Without a server and without a last known price each line says that its price is unavailable, and why."""
    server.die()
    receipt = price()
    assert sources(receipt) == {Source.UNAVAILABLE}
    assert not receipt.complete
    assert "total of the lines that have a price: 0.00 EUR\nbecause: UNAVAILABLE: " in str(receipt)


def test_a_reset_breaker_finds_a_well_service(server: PricingServer, price: Price, breakers: BreakerRegistry) -> None:
    """When an operator resets the breaker of a service that works again, prices are fresh again."""
    server.switchboard.suffer(error_rate=1.0)
    while breakers[GET_PRICE].state is not State.OPEN:
        price()
    breakers[GET_PRICE].force_open()
    server.switchboard.recover()
    assert sources(price()) == {Source.UNAVAILABLE}
    breakers[GET_PRICE].reset()
    assert sources(price()) == {Source.FRESH}


@pytest.fixture
def options(server: PricingServer, config: Path) -> list[str]:
    """The options of a command: the server, and long deadlines."""
    return ["--target", server.address, "--config", str(config)]


@BOTH_MAINS
def test_basket_command(options: list[str], main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """`basket` prints a receipt with a line for each item, those the shop does not sell included."""
    assert main([*options, "basket", "grinder=2", "yacht", "--times", "2", "--every", "0"]) == 0
    receipt = [
        "  2 x grinder",
        "  1 x yacht",
        "total of the lines that have a price: 178.00 EUR",
        "goes well with it: espresso-beans",
    ]
    for line, start in zip(capsys.readouterr().out.splitlines(), receipt * 2, strict=True):
        assert line.startswith(start)


@BOTH_MAINS
def test_quote_command(options: list[str], main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """`quote` prints the total as it grows."""
    assert main([*options, "quote", "grinder", "milk-jug=2"]) == 0
    totals = [line.partition("total so far ")[2] for line in capsys.readouterr().out.splitlines()]
    assert totals == ["89.00 EUR", "123.80 EUR"]


@BOTH_MAINS
def test_upload_and_watch_commands(options: list[str], main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """`upload` changes a price, and `watch` then prints the new one."""
    assert main([*options, "upload", "grinder=79.90", "milk-jug=17.40"]) == 0
    assert main([*options, "watch", "grinder", "--changes", "1"]) == 0
    uploaded, watched = capsys.readouterr().out.splitlines()
    assert uploaded == "2 lines received, 1 prices changed"
    assert watched.split()[:3] == ["grinder", "79.90", "EUR"]


@BOTH_MAINS
def test_a_watch_is_tried_again(
    server: PricingServer, options: list[str], main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `watch` that fails before its first price is tried again, by the channel: of two commands neither fails."""
    server.switchboard.suffer(error_rate=0.5)
    for _ in range(2):
        assert main([*options, "watch", "grinder", "--changes", "1"]) == 0
    assert capsys.readouterr().out.count("89.00 EUR") == 2
    assert sum(server.switchboard.calls().values()) == 3


@BOTH_MAINS
def test_a_failed_command(options: list[str], main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that has nothing to fall back on exits with 1 and prints the status."""
    assert main([*options, "quote", "yacht"]) == 1
    assert capsys.readouterr().err == "failed: NOT_FOUND: the shop does not sell 'yacht'\n"


@BOTH_MAINS
def test_a_config_that_is_wrong(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A service config that is wrong, or missing, is a usage error that says what is wrong with it."""
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"methodConfig": [{"name": [{}], "timeout": 5}]}', "utf-8")
    for path, problem in ((wrong, "$.methodConfig[0].timeout must be"), (tmp_path / "none.json", "cannot be read")):
        with pytest.raises(SystemExit) as caught:
            main(["--config", str(path), "basket", "grinder"])
        assert caught.value.code == 2
        assert problem in capsys.readouterr().err


@BOTH_MAINS
@pytest.mark.parametrize("argument", ["grinder=none", "grinder=0", "grinder=1000001", "grinder="])
def test_a_bad_argument(main: Main, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A quantity that is not a whole number from 1 is a usage error that shows it."""
    with pytest.raises(SystemExit) as caught:
        main(["basket", argument])
    assert caught.value.code == 2
    assert f"a quantity must be a whole number from 1 to 1000000, got '{argument}'" in capsys.readouterr().err


def test_the_switchboard_has_no_breaker(breakers: BreakerRegistry) -> None:
    """With the shop's service config each method of Pricing has a breaker of its own, and the switchboard has none."""
    assert breakers.breaker_for("pricing.v1.Trouble/Set") is None
    assert breakers.breaker_for(GET_PRICE) is not breakers.breaker_for("pricing.v1.Pricing/Quote")


def test_the_config_names_every_method() -> None:
    """The shop's service config names the methods that there are, all of them."""
    breakers = shop.breakers()
    breakers.check(pricing_pb2)
    for method in pricing_pb2.DESCRIPTOR.services_by_name["Pricing"].methods:
        assert breakers.breaker_for(f"pricing.v1.Pricing/{method.name}") is not None
