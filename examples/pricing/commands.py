"""The command line of both checkouts: its sub-commands, and what they print."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.pricing import money, shop
from examples.pricing.shop import Item
from examples.pricing.v1.pricing_pb2 import Money, Price, QuoteResponse, UploadPricesResponse
from grpc_breaker import BreakerRegistry, ServiceConfigError


def parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a checkout's command line."""
    whole = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole.add_argument("--target", default="127.0.0.1:50051", help="the pricing server, host:port")
    whole.add_argument(
        "--config",
        dest="breakers",
        type=registry,
        default=str(shop.DOCUMENT),
        metavar="FILE",
        help="the service config; default: resilience.json beside this program",
    )
    commands = whole.add_subparsers(dest="command", required=True)

    basket = commands.add_parser("basket", help="price a basket, with the last known prices during an outage")
    basket.add_argument("items", nargs="+", type=item, metavar="PRODUCT[=QUANTITY]")
    basket.add_argument("--times", type=int, default=1, help="how many times to price it")
    basket.add_argument("--every", type=float, default=1.0, help="seconds from one time to the next")

    quote = commands.add_parser("quote", help="quote a basket line by line (bidirectional stream)")
    quote.add_argument("items", nargs="+", type=item, metavar="PRODUCT[=QUANTITY]")

    watch = commands.add_parser("watch", help="print prices now and whenever they change (server stream)")
    watch.add_argument("product_ids", nargs="*", metavar="PRODUCT", help="default: all")
    watch.add_argument("--changes", type=int, help="stop after this many; default: never")

    upload = commands.add_parser("upload", help="send a price list (client stream)")
    upload.add_argument("amounts", nargs="+", type=amount, metavar="PRODUCT=AMOUNT")
    return whole


def registry(path: str) -> BreakerRegistry:
    """The breakers of a service config."""
    try:
        return shop.breakers(Path(path))
    except ServiceConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def item(text: str) -> Item:
    """An argument such as "grinder=2"."""
    try:
        return Item.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def amount(text: str) -> tuple[str, Money]:
    """An argument such as "grinder=92.50"."""
    product_id, _, price = text.partition("=")
    try:
        return product_id, money.of(price)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def describe_price(price: Price) -> str:
    """A price as text."""
    return f"{price.product_id:<16} {money.text(price.amount):>12}  (revision {price.revision})"


def describe_quote(response: QuoteResponse) -> str:
    """The quote of one line as text."""
    line, total = money.text(response.line_total), money.text(response.total)
    return f"{response.price.product_id:<16} {line:>12}  total so far {total}"


def describe_upload(response: UploadPricesResponse) -> str:
    """The response to a price list as text."""
    return f"{response.received} lines received, {response.changed} prices changed"
