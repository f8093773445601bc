"""Amounts of money: exact, and readable."""

from __future__ import annotations

import pytest

from examples.pricing import money


@pytest.mark.parametrize("text", ["12.50", "0.00", "-3.05", "0.001", "100.00", "1000000000.00"])
def test_text_and_back(text: str) -> None:
    """An amount reads as the decimal text it was made from."""
    assert money.text(money.of(text)) == f"{text} EUR"


def test_times_is_exact() -> None:
    """Three times a tenth is three tenths."""
    assert money.text(money.times(money.of("0.10"), 3)) == "0.30 EUR"


def test_units_and_nanos_have_one_sign() -> None:
    """A negative amount has negative units and negative nanos."""
    amount = money.of("-1.75")
    assert (amount.units, amount.nanos) == (-1, -750_000_000)


NO_AMOUNTS = ["", "twelve", "12,50", "Infinity", "NaN", "1e-10", "1_000", "\u0661\u0662"]
TOO_FINE_OR_LARGE = ["1.0000000000000000000000000000001", "1" * 99, "1000000000.01"]


@pytest.mark.parametrize("text", [*NO_AMOUNTS, *TOO_FINE_OR_LARGE])
def test_what_is_no_number_is_refused(text: str) -> None:
    """Text that is not a decimal number, or has more than nine decimals, is a ValueError that shows it."""
    with pytest.raises(ValueError, match="must be a decimal number") as caught:
        money.of(text)
    assert repr(text) in str(caught.value)


def test_no_amount_is_too_large_for_a_request() -> None:
    """The largest amount times the largest quantity of a request still fits into the proto."""
    assert money.times(money.of(str(money.LARGEST)), 2**31 - 1).units == money.LARGEST * (2**31 - 1)
    assert not money.is_proper(money.Money(currency_code=money.CURRENCY, units=money.LARGEST + 1))
