"""A checkout that works without its pricing service, for asyncio: `python -m examples.pricing.checkout_aio --help`.

What is wanted of its calls stands in `resilience.json`, and is attached in `connect`. The calls are made as ever. One
may be answered by a fallback, which its trailing metadata say, or be refused at once with a `CallRefusedError`, which
is a `grpc.aio.AioRpcError` like any other failure. `checkout.py` is the same program in blocking code, and may share
this one's registry.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Final

import grpc
import grpc.aio

from examples.pricing import commands, shop
from examples.pricing.shop import Item, Line, Receipt, explain, fallback_of
from examples.pricing.v1 import pricing_pb2 as pb
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerRegistry, aio
from grpc_breaker.admin import serve_admin

LINES_AT_ONCE: Final = 4
"""Calls for prices that one basket makes at once: fewer than the bulkhead allows, so that no basket fills it alone."""


def connect(target: str, breakers: BreakerRegistry) -> grpc.aio.Channel:
    """A channel to the pricing service, with everything that the service config says of its methods."""
    options = breakers.channel_options(pb)
    return grpc.aio.insecure_channel(target, options=options, interceptors=aio.interceptors(breakers))


class Checkout:
    """Prices baskets, during an outage with the last known prices. For one event loop, the channel's."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """A checkout that asks the service at the other end of the channel."""
        self._stub = PricingStub(channel)

    async def price(self, basket: Iterable[Item]) -> Receipt:
        """Price a basket, some lines at once, and recommend something."""
        items = list(basket)
        lines, offer = await asyncio.gather(self._lines(items), self._offer(items))
        return Receipt(lines, offer)

    async def _lines(self, items: Sequence[Item]) -> Sequence[Line]:
        turn = asyncio.Semaphore(LINES_AT_ONCE)
        return await asyncio.gather(*(self._line(item, turn) for item in items))

    async def _line(self, item: Item, turn: asyncio.Semaphore) -> Line:
        """The price now, or else the last known."""
        async with turn:
            call = self._stub.GetPrice(pb.GetPriceRequest(product_id=item.product_id))
            try:
                response = await call
            except grpc.RpcError as error:  # CallRefusedError is one
                return Line.failed(item, error)
            return Line.priced(item, response.price, fallback_of(await call.trailing_metadata()))

    async def _offer(self, items: Sequence[Item]) -> str:
        """What goes well with the basket, or else the bestsellers; a checkout can do without either."""
        call = self._stub.GetRecommendations(
            pb.GetRecommendationsRequest(product_ids=[item.product_id for item in items])
        )
        try:
            return shop.offer(await call, fallback_of(await call.trailing_metadata()))
        except grpc.RpcError:
            return ""

    async def quote(self, basket: Iterable[Item]) -> AsyncIterator[pb.QuoteResponse]:
        """Quote a basket (both sides stream): the price of each line, and the total so far."""
        lines = (pb.QuoteRequest(product_id=item.product_id, quantity=item.quantity) for item in basket)
        async for response in self._stub.Quote(lines):
            yield response

    async def watch(self, product_ids: Sequence[str]) -> AsyncGenerator[pb.Price, None]:
        """Prices now and whenever they change (the server streams), without end."""
        changes = self._stub.WatchPrices(pb.WatchPricesRequest(product_ids=product_ids))
        try:
            async for change in changes:
                yield change.price
        finally:
            changes.cancel()

    async def upload(self, amounts: Iterable[tuple[str, pb.Money]]) -> pb.UploadPricesResponse:
        """Send a price list (the client streams)."""
        lines = (pb.UploadPricesRequest(product_id=product_id, amount=amount) for product_id, amount in amounts)
        return await self._stub.UploadPrices(lines)


async def run(checkout: Checkout, options: argparse.Namespace) -> None:
    """Carry out one sub-command."""
    match options.command:
        case "basket":
            for turn in range(options.times):
                if turn:
                    await asyncio.sleep(options.every)
                print(await checkout.price(options.items), flush=True)
        case "quote":
            async for response in checkout.quote(options.items):
                print(commands.describe_quote(response), flush=True)
        case "watch":
            async with contextlib.aclosing(checkout.watch(options.product_ids)) as prices:
                seen = 0
                async for price in prices:
                    print(commands.describe_price(price), flush=True)
                    seen += 1
                    if seen == options.changes:
                        break
        case _:
            print(commands.describe_upload(await checkout.upload(options.amounts)))


async def checkout(options: argparse.Namespace) -> int:
    """Run one sub-command; returns the exit code."""
    async with connect(options.target, options.breakers) as channel:
        try:
            await run(Checkout(channel), options)
        except grpc.RpcError as error:
            print(f"failed: {explain(error)}", file=sys.stderr)
            return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    options = commands.parser(__doc__).parse_args(arguments)
    with serve_admin(options.breakers, allow_changes=True):
        return asyncio.run(checkout(options))


if __name__ == "__main__":
    sys.exit(main())
