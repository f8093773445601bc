"""Exact arithmetic on the proto's `Money`."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from examples.pricing.v1.pricing_pb2 import Money

BILLION: Final = 1_000_000_000
CURRENCY: Final = "EUR"
"""The one currency this shop sells in."""


def of(text: str) -> Money:
    """An amount in the shop's currency, from decimal text: `of("12.50")`.

    Raises:
        ValueError: The text is no decimal number, or finer than a billionth.
    """
    try:
        numerator, denominator = (Decimal(text) * BILLION).as_integer_ratio()
    except (ArithmeticError, ValueError):
        numerator, denominator = 0, 0
    if denominator != 1:
        message = f"an amount of money must be a decimal number such as 12.50, got {text!r}"
        raise ValueError(message)
    return from_nanos(numerator)


def is_proper(amount: Money) -> bool:
    """Whether an amount is one: in the shop's currency, not negative, its nanos below a unit."""
    return amount.currency_code == CURRENCY and amount.units >= 0 and 0 <= amount.nanos < BILLION


def nanos(amount: Money) -> int:
    """The whole amount in billionths of a unit, as one exact integer."""
    return amount.units * BILLION + amount.nanos


def from_nanos(total: int) -> Money:
    """The amount that is so many billionths of a unit; units and nanos have the same sign."""
    units, rest = divmod(abs(total), BILLION)
    sign = -1 if total < 0 else 1
    return Money(currency_code=CURRENCY, units=sign * units, nanos=sign * rest)


def times(amount: Money, quantity: int) -> Money:
    """The amount, so many times."""
    return from_nanos(nanos(amount) * quantity)


def text(amount: Money) -> str:
    """The amount for a person, with at least two decimals: "12.50 EUR"."""
    exact = Decimal(nanos(amount)) / BILLION
    rounded = exact.quantize(Decimal("0.01"))
    return f"{rounded if rounded == exact else exact.normalize()} {amount.currency_code}"
