"""The two checkouts, blocking and asyncio, with a server that works, fails and dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import grpc
import grpc.aio
import pytest

from examples.pricing import checkout, checkout_aio, shop
from examples.pricing.shop import Item, LastKnownPrices, Receipt, Source
from examples.pricing.switchboard import PricingServer
from grpc_breaker import BreakerRegistry, State

GET_PRICE = "pricing.v1.Pricing/GetPrice"
BASKET = (Item("espresso-beans", 2), Item("filter-papers"))
PATIENCE = 10.0
TRIPS = shop.POLICIES["pricing.v1.Pricing"].consecutive_failures or 0


class Main(Protocol):
    """A checkout's command line."""

    def __call__(self, arguments: Sequence[str]) -> int:
        """Run it; return the exit code."""
        ...


BOTH_MAINS = pytest.mark.parametrize("main", [checkout.main, checkout_aio.main], ids=["sync", "aio"])


@pytest.fixture
def breakers() -> BreakerRegistry:
    """The shop's own breakers."""
    return shop.breakers()


@pytest.fixture(params=["sync", "aio"])
def price(
    request: pytest.FixtureRequest, server: PricingServer, breakers: BreakerRegistry
) -> Iterator[Callable[[], Receipt]]:
    """Prices the basket at a checkout of either kind."""
    if request.param == "sync":
        with checkout.connect(server.address, breakers) as channel:
            blocking = checkout.Checkout(channel, patience=PATIENCE)
            yield lambda: blocking.price(BASKET)
        return
    with asyncio.Runner() as runner:

        async def open_checkout() -> tuple[grpc.aio.Channel, checkout_aio.Checkout]:
            aio_channel = checkout_aio.connect(server.address, breakers)
            return aio_channel, checkout_aio.Checkout(aio_channel, patience=PATIENCE)

        aio_channel, looping = runner.run(open_checkout())
        yield lambda: runner.run(looping.price(BASKET))
        runner.run(aio_channel.close(None))


def sources(receipt: Receipt) -> set[Source]:
    """Where a receipt's prices come from."""
    return {line.source for line in receipt.lines}


def test_a_well_service_gives_fresh_prices(price: Callable[[], Receipt]) -> None:
    """While the service works a receipt is complete, and all its prices are fresh."""
    receipt = price()
    assert sources(receipt) == {Source.FRESH}
    assert str(receipt).splitlines()[-1] == "total: 27.95 EUR"


def test_an_ill_service_gives_last_known_prices(server: PricingServer, price: Callable[[], Receipt]) -> None:
    """When calls fail a receipt has the last known prices, and says what failed."""
    price()
    server.switchboard.suffer(error_rate=1.0, error_status="INTERNAL")
    receipt = price()
    assert sources(receipt) == {Source.LAST_KNOWN}
    assert str(receipt).splitlines()[-2:] == [
        "total: 27.95 EUR",
        "because: INTERNAL: the pricing service is in trouble",
    ]


def test_an_open_breaker_keeps_calls_from_the_server(
    server: PricingServer, price: Callable[[], Receipt], breakers: BreakerRegistry
) -> None:
    """Once failures have opened the breaker, baskets are still priced, without a call to the server."""
    price()
    server.switchboard.suffer(error_rate=1.0)
    while breakers[GET_PRICE].state is not State.OPEN:  # failures that may be one incident take a second
        price()
    heard = server.switchboard.calls()
    receipt = price()
    assert server.switchboard.calls() == heard
    assert sources(receipt) == {Source.LAST_KNOWN}
    assert receipt.lines[0].why.startswith(f"circuit breaker open for {GET_PRICE}; next probe in ")


def test_a_dead_server_leaves_prices_unavailable(server: PricingServer, price: Callable[[], Receipt]) -> None:
    """Without a server and without a last known price each line says that its price is unavailable, and why."""
    server.die()
    receipt = price()
    assert sources(receipt) == {Source.UNAVAILABLE}
    assert not receipt.complete
    assert "total of the lines that have a price: 0.00 EUR\nbecause: UNAVAILABLE: " in str(receipt)


def test_a_reset_breaker_finds_a_well_service(
    server: PricingServer, price: Callable[[], Receipt], breakers: BreakerRegistry
) -> None:
    """When an operator resets the breaker of a service that works again, prices are fresh again."""
    server.switchboard.suffer(error_rate=1.0)
    while breakers[GET_PRICE].state is not State.OPEN:
        price()
    breakers[GET_PRICE].force_open()
    server.switchboard.recover()
    assert sources(price()) == {Source.UNAVAILABLE}
    breakers[GET_PRICE].reset()
    assert sources(price()) == {Source.FRESH}


@BOTH_MAINS
def test_basket_command(server: PricingServer, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """`basket` prints a receipt with a line for each item, those the shop does not sell included."""
    assert (
        main(
            [
                "--target",
                server.address,
                "--patience",
                str(PATIENCE),
                "basket",
                "grinder=2",
                "yacht",
                "--times",
                "2",
                "--every",
                "0",
            ]
        )
        == 0
    )
    receipt = ["  2 x grinder", "  1 x yacht", "total of the lines that have a price: 178.00 EUR"]
    for line, start in zip(capsys.readouterr().out.splitlines(), receipt * 2, strict=True):
        assert line.startswith(start)


@BOTH_MAINS
def test_quote_command(server: PricingServer, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """`quote` prints the total as it grows."""
    assert main(["--target", server.address, "--patience", str(PATIENCE), "quote", "grinder", "milk-jug=2"]) == 0
    totals = [line.partition("total so far ")[2] for line in capsys.readouterr().out.splitlines()]
    assert totals == ["89.00 EUR", "123.80 EUR"]


@BOTH_MAINS
def test_upload_and_watch_commands(server: PricingServer, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """`upload` changes a price, and `watch` then prints the new one."""
    assert (
        main(["--target", server.address, "--patience", str(PATIENCE), "upload", "grinder=79.90", "milk-jug=17.40"])
        == 0
    )
    assert main(["--target", server.address, "--patience", str(PATIENCE), "watch", "grinder", "--changes", "1"]) == 0
    uploaded, watched = capsys.readouterr().out.splitlines()
    assert uploaded == "2 lines received, 1 prices changed"
    assert watched.split()[:3] == ["grinder", "79.90", "EUR"]


@BOTH_MAINS
def test_a_failed_command(server: PricingServer, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that has nothing to fall back on exits with 1 and prints the status."""
    assert main(["--target", server.address, "--patience", str(PATIENCE), "quote", "yacht"]) == 1
    assert capsys.readouterr().err == "failed: NOT_FOUND: the shop does not sell 'yacht'\n"


@BOTH_MAINS
@pytest.mark.parametrize("argument", ["grinder=none", "grinder=0", "grinder=1000001", "grinder="])
def test_a_bad_argument(main: Main, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A quantity that is not a whole number from 1 is a usage error that shows it."""
    with pytest.raises(SystemExit) as caught:
        main(["basket", argument])
    assert caught.value.code == 2
    assert f"a quantity must be a whole number from 1 to 1000000, got '{argument}'" in capsys.readouterr().err


def test_the_switchboard_has_no_breaker(breakers: BreakerRegistry) -> None:
    """With the policies of the shop each method of Pricing has a breaker of its own, and the switchboard has none."""
    assert breakers.breaker_for("pricing.v1.Trouble/Set") is None
    assert breakers.breaker_for(GET_PRICE) is not breakers.breaker_for("pricing.v1.Pricing/Quote")


def test_nothing_is_known_at_first() -> None:
    """Without an earlier response there is no last known price."""
    assert LastKnownPrices().recall("grinder") is None
