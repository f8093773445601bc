"""A checkout that works without its pricing service, in blocking code: `python -m examples.pricing.checkout --help`.

What is wanted of its calls stands in `resilience.json`, and is attached in `connect`. The calls are made as ever. One
may be answered by a fallback, which its trailing metadata say, or be refused at once with a `CallRefusedError`, which
is a `grpc.RpcError` like any other failure. `checkout_aio.py` is the same program for asyncio.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

import grpc

from examples.pricing import commands, shop
from examples.pricing.shop import Item, Line, Receipt, explain, fallback_of
from examples.pricing.v1 import pricing_pb2 as pb
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor
from grpc_breaker.admin import serve_admin


def connect(target: str, breakers: BreakerRegistry) -> grpc.Channel:
    """A channel to the pricing service, with everything that the service config says of its methods."""
    channel = grpc.insecure_channel(target, options=breakers.channel_options(pb))
    return grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers))


class Checkout:
    """Prices baskets, during an outage with the last known prices. Safe to use from several threads."""

    def __init__(self, channel: grpc.Channel) -> None:
        """A checkout that asks the service at the other end of the channel."""
        self._stub = PricingStub(channel)

    def price(self, basket: Iterable[Item]) -> Receipt:
        """Price a basket, line by line, and recommend something."""
        items = list(basket)
        return Receipt([self._line(item) for item in items], self._offer(items))

    def _line(self, item: Item) -> Line:
        """The price now, or else the last known."""
        try:
            response, call = self._stub.GetPrice.with_call(pb.GetPriceRequest(product_id=item.product_id))
        except grpc.RpcError as error:  # CallRefusedError is one
            return Line.failed(item, error)
        return Line.priced(item, response.price, fallback_of(call.trailing_metadata()))

    def _offer(self, items: Sequence[Item]) -> str:
        """What goes well with the basket, or else the bestsellers; a checkout can do without either."""
        request = pb.GetRecommendationsRequest(product_ids=[item.product_id for item in items])
        try:
            response, call = self._stub.GetRecommendations.with_call(request)
        except grpc.RpcError:
            return ""
        return shop.offer(response, fallback_of(call.trailing_metadata()))

    def quote(self, basket: Iterable[Item]) -> Iterator[pb.QuoteResponse]:
        """Quote a basket (both sides stream): the price of each line, and the total so far."""
        lines = (pb.QuoteRequest(product_id=item.product_id, quantity=item.quantity) for item in basket)
        yield from self._stub.Quote(lines)

    def watch(self, product_ids: Sequence[str]) -> Iterator[pb.Price]:
        """Prices now and whenever they change (the server streams), without end."""
        changes = self._stub.WatchPrices(pb.WatchPricesRequest(product_ids=product_ids))
        try:
            for change in changes:
                yield change.price
        finally:
            changes.cancel()

    def upload(self, amounts: Iterable[tuple[str, pb.Money]]) -> pb.UploadPricesResponse:
        """Send a price list (the client streams)."""
        lines = (pb.UploadPricesRequest(product_id=product_id, amount=amount) for product_id, amount in amounts)
        return self._stub.UploadPrices(lines)


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
    with serve_admin(options.breakers, allow_changes=True), connect(options.target, options.breakers) as channel:
        try:
            run(Checkout(channel), options)
        except grpc.RpcError as error:
            print(f"failed: {explain(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
