"""A checkout that works without its pricing service, in blocking code: `python -m examples.pricing.checkout --help`.

The breaker is attached in one line, in `connect`. The calls are made as before; the only difference is that one may be
refused at once with `CircuitOpenError`, which is a `grpc.RpcError` like any other failure. `checkout_aio.py` is the
same program for asyncio.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import grpc

from examples.pricing import commands, shop
from examples.pricing.shop import Item, LastKnownPrices, Line, Receipt, explain
from examples.pricing.v1 import pricing_pb2 as pb
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor


def connect(target: str, breakers: BreakerRegistry) -> grpc.Channel:
    """A channel to the pricing service, with a breaker for each of its methods."""
    return grpc.intercept_channel(grpc.insecure_channel(target), CircuitBreakerInterceptor(breakers))


class Checkout:
    """Prices baskets, during an outage with the last known prices. Safe to use from several threads."""

    def __init__(self, channel: grpc.Channel, *, patience: float = shop.PATIENCE) -> None:
        """A checkout that waits `patience` seconds for one price."""
        self._stub = PricingStub(channel)
        self._patience = patience
        self._known = LastKnownPrices()

    def price(self, basket: Iterable[Item]) -> Receipt:
        """Price a basket, line by line."""
        return Receipt([self._line(item) for item in basket])

    def _line(self, item: Item) -> Line:
        """One unary call: the price now, or else the last known."""
        try:
            response = self._stub.GetPrice(pb.GetPriceRequest(product_id=item.product_id), timeout=self._patience)
        except grpc.RpcError as error:  # CircuitOpenError is one
            return self._known.failed(item, error)
        return self._known.fresh(item, response.price)

    def quote(self, basket: Iterable[Item]) -> Iterator[pb.QuoteResponse]:
        """Quote a basket (both sides stream): the price of each line, and the total so far."""
        # The basket is complete, so only the server can be late. A stream at a customer's pace should have no deadline.
        lines = (pb.QuoteRequest(product_id=item.product_id, quantity=item.quantity) for item in basket)
        yield from self._stub.Quote(lines, timeout=10 * self._patience)

    def watch(self, product_ids: Sequence[str]) -> Iterator[pb.Price]:
        """Prices now and whenever they change (the server streams), without end; each becomes the last known price."""
        changes = self._stub.WatchPrices(pb.WatchPricesRequest(product_ids=product_ids))
        try:
            for change in changes:
                self._known.remember(change.price)
                yield change.price
        finally:
            changes.cancel()

    def upload(self, amounts: Iterable[tuple[str, pb.Money]]) -> pb.UploadPricesResponse:
        """Send a price list (the client streams)."""
        lines = (pb.UploadPricesRequest(product_id=product_id, amount=amount) for product_id, amount in amounts)
        return self._stub.UploadPrices(lines, timeout=10 * self._patience)


def run(checkout: Checkout, options: argparse.Namespace) -> None:
    """Carry out one sub-command."""
    match options.command:
        case "basket":
            for turn in range(options.times):
                if turn:
                    time.sleep(options.every)
                print(checkout.price(options.items), flush=True)
        case "quote":
            for response in checkout.quote(options.items):
                print(commands.describe_quote(response), flush=True)
        case "watch":
            for price in itertools.islice(checkout.watch(options.product_ids), options.changes):
                print(commands.describe_price(price), flush=True)
        case _:
            print(commands.describe_upload(checkout.upload(options.amounts)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code."""
    options = commands.parser(__doc__).parse_args(arguments)
    with connect(options.target, shop.breakers()) as channel:
        try:
            run(Checkout(channel, patience=options.patience), options)
        except grpc.RpcError as error:
            print(f"failed: {explain(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
