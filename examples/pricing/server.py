"""The pricing server, whose failures can be switched on and off: `python -m examples.pricing.server --port 0`.

It prints one line when it is ready, "listening on 127.0.0.1:50051". It stops on SIGTERM and on Ctrl-C; with
`--until-stdin-closes` also when its standard input ends, so that it ends with the program that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from examples.pricing import money
from examples.pricing.v1 import pricing_pb2, pricing_pb2_grpc, trouble_pb2, trouble_pb2_grpc

PRICE_LIST: Final = {
    "espresso-beans": "12.50",
    "filter-papers": "2.95",
    "grinder": "89.00",
    "milk-jug": "17.40",
}
"""The prices at the start."""
GOES_WITH: Final = {
    "espresso-beans": ("grinder", "milk-jug"),
    "filter-papers": ("espresso-beans",),
    "grinder": ("espresso-beans",),
    "milk-jug": ("espresso-beans",),
}
"""What is recommended beside a product."""
EXIT_CODE_OF_DIE: Final = 70
"""The exit code of a server that was asked to die."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

log = logging.getLogger(__name__)


class Catalogue:
    """The shop's prices, on one event loop."""

    def __init__(self, price_list: dict[str, str]) -> None:
        """A catalogue from decimal amounts by product."""
        self._prices: dict[str, pricing_pb2.Price] = {}
        self._revision = 0
        self._changed = asyncio.Event()
        for product_id, amount in price_list.items():
            self.set(product_id, money.of(amount))

    def __contains__(self, product_id: str) -> bool:
        """Whether the shop sells the product."""
        return product_id in self._prices

    def get(self, product_id: str) -> pricing_pb2.Price | None:
        """The product's price; `None` when the shop does not sell it."""
        return self._prices.get(product_id)

    def set(self, product_id: str, amount: pricing_pb2.Money) -> bool:
        """Set a price; returns whether that changed anything."""
        present = self._prices.get(product_id)
        if present is not None and present.amount == amount:
            return False
        self._revision += 1
        self._prices[product_id] = pricing_pb2.Price(product_id=product_id, amount=amount, revision=self._revision)
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def watch(self, product_ids: Sequence[str]) -> AsyncIterator[pricing_pb2.Price]:
        """The prices of these products (if none is named, of all) now, then each that changes, without end."""
        seen = 0
        while True:
            changed = self._changed
            watched = [price for price in self._prices.values() if not product_ids or price.product_id in product_ids]
            news = [price for price in watched if price.revision > seen]
            seen = self._revision
            for price in sorted(news, key=lambda price: price.revision):
                yield price
            await changed.wait()


class Trouble(trouble_pb2_grpc.TroubleServicer):
    """How the server fails, on one event loop. Waiting calls hold no thread, so recovery is immediate."""

    def __init__(self) -> None:
        """A server that works."""
        self._affliction = trouble_pb2.Affliction()
        self._changed = asyncio.Event()
        self._calls: Counter[str] = Counter()
        self._owed = 0.0

    async def befall(self, context: Context) -> None:
        """Delay, hang or fail a call, as was asked for; returns if the call is to go on.

        Raises:
            grpc.aio.AbortError: The call is to fail; its status has been sent.
        """
        self._calls[caller(context)] += 1
        if self._affliction.latency_ms:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._affliction.latency_ms / 1000)
        while self._affliction.hang:
            await self._changed.wait()
        if self._next_fails():
            status = self._affliction.error_status or "UNAVAILABLE"
            await context.abort(grpc.StatusCode[status], "the pricing service is in trouble")

    async def Set(self, request: trouble_pb2.SetRequest, context: Context) -> trouble_pb2.SetResponse:
        """Replace the trouble, and let calls that wait because of the old one go on."""
        complaint = complain(request.affliction)
        if complaint:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, complaint)
        self._affliction = request.affliction
        self._owed = 0.0
        self._changed.set()
        self._changed = asyncio.Event()
        log.info("trouble: %s", str(request.affliction).replace("\n", " ") or "none")
        return trouble_pb2.SetResponse()

    async def Get(self, request: trouble_pb2.GetRequest, context: Context) -> trouble_pb2.GetResponse:  # noqa: ARG002 - gRPC's signature
        """Return the trouble, and how many calls have come."""
        return trouble_pb2.GetResponse(affliction=self._affliction, calls=self._calls)

    async def Die(self, request: trouble_pb2.DieRequest, context: Context) -> trouble_pb2.DieResponse:  # noqa: ARG002 - gRPC's signature
        """End the process as a crash would, without any clean-up."""
        log.info("trouble: dying")
        os._exit(EXIT_CODE_OF_DIE)

    def _next_fails(self) -> bool:
        """Spread the failures evenly: with a rate of 0.25 every fourth call fails, in each run."""
        self._owed += self._affliction.error_rate
        if self._owed < 1:
            return False
        self._owed -= 1
        return True


def caller(context: Context) -> str:
    """The first word of a call's user agent."""
    for key, value in context.invocation_metadata() or ():
        if key == "user-agent":
            return str(value).split(maxsplit=1)[0]
    return "unknown"


def complain(affliction: trouble_pb2.Affliction) -> str:
    """What is wrong with a trouble that was asked for; empty if nothing is."""
    if not 0 <= affliction.error_rate <= 1:
        return f"error_rate must be from 0 to 1, got {affliction.error_rate}"
    if affliction.latency_ms < 0:
        return f"latency_ms must be 0 or more, got {affliction.latency_ms}"
    failing = grpc.StatusCode.__members__.keys() - {"OK"}
    if affliction.error_status and affliction.error_status not in failing:
        return f"error_status must name a gRPC status other than OK, got {affliction.error_status!r}"
    return ""


TOTAL_LIMIT: Final = money.LARGEST * (2**31 - 1) * money.BILLION
"""The largest total of a basket, in billionths: a larger one would not fit into the proto's `Money`."""


class Pricing(pricing_pb2_grpc.PricingServicer):
    """The service of the proto. Each call first passes `Trouble.befall`, where it may wait or fail."""

    def __init__(self, catalogue: Catalogue, trouble: Trouble) -> None:
        """A service with these prices and these failures."""
        self._catalogue = catalogue
        self._trouble = trouble

    async def GetPrice(self, request: pricing_pb2.GetPriceRequest, context: Context) -> pricing_pb2.GetPriceResponse:
        """Return the price of one product."""
        await self._trouble.befall(context)
        return pricing_pb2.GetPriceResponse(price=await self._price(request.product_id, context))

    async def GetRecommendations(
        self, request: pricing_pb2.GetRecommendationsRequest, context: Context
    ) -> pricing_pb2.GetRecommendationsResponse:
        """Return what goes well with the products of a basket."""
        await self._trouble.befall(context)
        fitting = dict.fromkeys(other for product_id in request.product_ids for other in GOES_WITH.get(product_id, ()))
        return pricing_pb2.GetRecommendationsResponse(
            product_ids=[product_id for product_id in fitting if product_id not in request.product_ids]
        )

    async def WatchPrices(
        self, request: pricing_pb2.WatchPricesRequest, context: Context
    ) -> AsyncIterator[pricing_pb2.WatchPricesResponse]:
        """Send the prices now, then each that changes."""
        await self._trouble.befall(context)
        for product_id in request.product_ids:
            await self._price(product_id, context)
        async for price in self._catalogue.watch(request.product_ids):
            yield pricing_pb2.WatchPricesResponse(price=price)

    async def UploadPrices(
        self, request_iterator: AsyncIterator[pricing_pb2.UploadPricesRequest], context: Context
    ) -> pricing_pb2.UploadPricesResponse:
        """Receive a whole price list, then put it into effect."""
        await self._trouble.befall(context)
        lines = [line async for line in request_iterator]
        for number, line in enumerate(lines, start=1):
            if not line.product_id or not money.is_proper(line.amount):
                complaint = f"line {number} needs a product and an amount in {money.CURRENCY}, 0 to {money.LARGEST}"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, complaint)
        changed = sum(self._catalogue.set(line.product_id, line.amount) for line in lines)
        return pricing_pb2.UploadPricesResponse(received=len(lines), changed=changed)

    async def Quote(
        self, request_iterator: AsyncIterator[pricing_pb2.QuoteRequest], context: Context
    ) -> AsyncIterator[pricing_pb2.QuoteResponse]:
        """Return, for each line of a basket, its price and the total so far."""
        await self._trouble.befall(context)
        total = 0
        async for line in request_iterator:
            if line.quantity < 1:
                complaint = f"quantity must be 1 or more, got {line.quantity}"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, complaint)
            price = await self._price(line.product_id, context)
            line_total = money.times(price.amount, line.quantity)
            total += money.nanos(line_total)
            if total > TOTAL_LIMIT:
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no basket is worth that much")
            yield pricing_pb2.QuoteResponse(price=price, line_total=line_total, total=money.from_nanos(total))

    async def _price(self, product_id: str, context: Context) -> pricing_pb2.Price:
        price = self._catalogue.get(product_id)
        if price is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the shop does not sell {product_id!r}")
        return price


async def serve(port: int, stop: asyncio.Event) -> None:
    """Serve on a port of the loopback interface (0: any free one) until `stop` is set."""
    trouble = Trouble()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pricing_pb2_grpc.add_PricingServicer_to_server(Pricing(Catalogue(PRICE_LIST), trouble), server)
    trouble_pb2_grpc.add_TroubleServicer_to_server(trouble, server)
    try:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)  # old versions of grpcio can hang at the end of a process whose server could not listen
    await server.start()
    print(f"listening on 127.0.0.1:{bound}", flush=True)
    await stop.wait()
    await server.stop(grace=None)


async def serve_until_stopped(port: int, *, until_stdin_closes: bool) -> None:
    """Serve until SIGTERM or Ctrl-C, or until standard input ends, if that is asked for."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with asyncio.TaskGroup() as tasks:
        stdin = tasks.create_task(stop_at_end_of_stdin(stop)) if until_stdin_closes else None
        await serve(port, stop)
        if stdin is not None:
            stdin.cancel()


async def stop_at_end_of_stdin(stop: asyncio.Event) -> None:
    """Set `stop` when standard input ends: the process at its other end has closed it, or has died."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with contextlib.closing(transport):
        while await reader.read(1024):
            pass
        stop.set()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description="A pricing server whose failures can be switched on and off.")
    parser.add_argument("--port", type=int, default=50051, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input ends")
    parser.add_argument("--verbose", action="store_true", help="log each change of the trouble")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    asyncio.run(serve_until_stopped(options.port, until_stdin_closes=options.until_stdin_closes))


if __name__ == "__main__":
    main()
