"""A checkout that works without its pricing service, for asyncio: `python -m examples.pricing.checkout_aio --help`.

The breaker is attached in one line, in `connect`. The calls are made as before; the only difference is that one may be
refused at once with `CircuitOpenError`, which is a `grpc.aio.AioRpcError` like any other failure. `checkout.py` is the
same program in blocking code, and may share this one's registry.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

import grpc
import grpc.aio

from examples.pricing import commands, shop
from examples.pricing.shop import Item, LastKnownPrices, Line, Receipt, explain
from examples.pricing.v1 import pricing_pb2 as pb
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerRegistry, aio


def connect(target: str, breakers: BreakerRegistry) -> grpc.aio.Channel:
    """A channel to the pricing service, with a breaker for each of its methods."""
    return grpc.aio.insecure_channel(target, interceptors=aio.interceptors(breakers))


class Checkout:
    """Prices baskets, during an outage with the last known prices. For one event loop, the channel's."""

    def __init__(self, channel: grpc.aio.Channel, *, patience: float = shop.PATIENCE) -> None:
        """A checkout that waits `patience` seconds for one price."""
        self._stub = PricingStub(channel)
        self._patience = patience
        self._known = LastKnownPrices()

    async def price(self, basket: Iterable[Item]) -> Receipt:
        """Price a basket, all lines at once."""
        return Receipt(await asyncio.gather(*map(self._line, basket)))

    async def _line(self, item: Item) -> Line:
        """One unary call: the price now, or else the last known."""
        try:
            response = await self._stub.GetPrice(pb.GetPriceRequest(product_id=item.product_id), timeout=self._patience)
        except grpc.RpcError as error:  # CircuitOpenError is one
            return self._known.failed(item, error)
        return self._known.fresh(item, response.price)

    async def quote(self, basket: Iterable[Item]) -> AsyncIterator[pb.QuoteResponse]:
        """Quote a basket (both sides stream): the price of each line, and the total so far."""
        # The basket is complete, so only the server can be late. A stream at a customer's pace should have no deadline.
        lines = (pb.QuoteRequest(product_id=item.product_id, quantity=item.quantity) for item in basket)
        async for response in self._stub.Quote(lines, timeout=10 * self._patience):
            yield response

    async def watch(self, product_ids: Sequence[str]) -> AsyncGenerator[pb.Price, None]:
        """Prices now and whenever they change (the server streams), without end; each becomes the last known price."""
        changes = self._stub.WatchPrices(pb.WatchPricesRequest(product_ids=product_ids))
        try:
            async for change in changes:
                self._known.remember(change.price)
                yield change.price
        finally:
            changes.cancel()

    async def upload(self, amounts: Iterable[tuple[str, pb.Money]]) -> pb.UploadPricesResponse:
        """Send a price list (the client streams)."""
        lines = (pb.UploadPricesRequest(product_id=product_id, amount=amount) for product_id, amount in amounts)
        return await self._stub.UploadPrices(lines, timeout=10 * self._patience)


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
    async with connect(options.target, shop.breakers()) as channel:
        try:
            await run(Checkout(channel, patience=options.patience), options)
        except grpc.RpcError as error:
            print(f"failed: {explain(error)}", file=sys.stderr)
            return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    return asyncio.run(checkout(commands.parser(__doc__).parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
