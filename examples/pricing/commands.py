"""The command line that both checkouts share: its sub-commands, and how their answers read."""

from __future__ import annotations

import argparse

from examples.pricing import money
from examples.pricing.shop import Item
from examples.pricing.v1.pricing_pb2 import Money, Price, QuoteResponse, UploadPricesResponse


def parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a checkout's command line."""
    whole = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole.add_argument("--target", default="127.0.0.1:50051", help="the pricing server, host:port")
    commands = whole.add_subparsers(dest="command", required=True)

    basket = commands.add_parser("basket", help="price a basket, with last known prices while the server is ill")
    basket.add_argument("items", nargs="+", type=item, metavar="PRODUCT[=QUANTITY]")
    basket.add_argument("--times", type=int, default=1, help="price it so many times")
    basket.add_argument("--every", type=float, default=1.0, help="seconds between two times")

    quote = commands.add_parser("quote", help="talk about a basket line by line (bidirectional stream)")
    quote.add_argument("items", nargs="+", type=item, metavar="PRODUCT[=QUANTITY]")

    watch = commands.add_parser("watch", help="hear of prices now and as they change (server stream)")
    watch.add_argument("product_ids", nargs="*", metavar="PRODUCT", help="all when none is named")
    watch.add_argument("--changes", type=int, help="stop after so many; without it, never")

    upload = commands.add_parser("upload", help="send a price list (client stream)")
    upload.add_argument("amounts", nargs="+", type=amount, metavar="PRODUCT=AMOUNT")
    return whole


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
    """A price for a person."""
    return f"{price.product_id:<16} {money.text(price.amount):>12}  (revision {price.revision})"


def describe_quote(answer: QuoteResponse) -> str:
    """One answer of the conversation for a person."""
    line, total = money.text(answer.line_total), money.text(answer.total)
    return f"{answer.price.product_id:<16} {line:>12}  total so far {total}"


def describe_upload(answer: UploadPricesResponse) -> str:
    """The answer to a price list for a person."""
    return f"{answer.received} lines received, {answer.changed} prices changed"
