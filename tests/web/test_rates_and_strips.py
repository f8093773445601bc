"""What is kept of a breaker's past: rates per second, and the strip of ten minutes. No time passes here."""

from __future__ import annotations

import pytest

from grpc_breaker._web.rates import SPAN, Counts, Rates
from grpc_breaker._web.strip import CELLS, SECONDS, Strip

NOW = 1_000_000.0


def test_a_rate_is_what_was_counted_per_second() -> None:
    """Steady calls have their rate, of each kind."""
    rates = Rates(NOW)
    for second in range(1, 31):
        rates.add(NOW + second, Counts(20, 4, 10))
    calls, failures, refusals = rates.read(NOW + 30)
    assert (calls, failures, refusals) == (
        pytest.approx(20, rel=0.2),
        pytest.approx(4, rel=0.2),
        pytest.approx(10, rel=0.2),
    )


def test_a_rate_ends_when_nothing_comes() -> None:
    """Two spans after the last call its rate is zero."""
    rates = Rates(NOW)
    rates.add(NOW + 1, Counts(20, 4, 10))
    assert rates.read(NOW + 1) == (20, 4, 10)
    assert rates.read(NOW + 1 + 2 * SPAN) == (0, 0, 0)


def test_a_rate_is_not_thinned_by_a_long_silence_before() -> None:
    """Calls after an hour of silence have a rate of the last seconds, not of the hour."""
    rates = Rates(NOW)
    rates.add(NOW + 3600, Counts(20, 0, 0))
    assert rates.read(NOW + 3600)[0] == pytest.approx(20 / SPAN)


def test_the_first_second_makes_no_rate_of_thousands() -> None:
    """A rate is that of one second at least."""
    rates = Rates(NOW)
    rates.add(NOW, Counts(5, 0, 0))
    assert rates.read(NOW)[0] == 5


@pytest.mark.parametrize("back", [3600.0, 8.0, 0.01])
def test_a_clock_that_is_set_back_makes_no_rate_of_thousands(back: float) -> None:
    """Calls are those of the last seconds, whatever time it is now."""
    rates = Rates(NOW)
    for second in range(1, 61):
        rates.add(NOW + second, Counts(20, 0, 0))
    for second in range(1, 61):
        rates.add(NOW + 60 - back + second, Counts(20, 0, 0))
        assert rates.read(NOW + 60 - back + second)[0] <= 200
    assert rates.read(NOW + 60 - back + 60)[0] == pytest.approx(20, rel=0.2)


def test_a_rate_has_three_digits() -> None:
    """A rate that hardly changes is the same text, so it is not sent again."""
    rates = Rates(NOW)
    rates.add(NOW + 3, Counts(10_000, 1, 0))
    assert rates.read(NOW + 3) == (3330.0, 0.333, 0)


def test_a_counter_that_went_back_began_anew() -> None:
    """A breaker that was made anew counts from nothing."""
    assert Counts(3, 2, 0).since(Counts(100, 1, 0)) == Counts(3, 1, 0)


def test_a_strip_shows_the_worst_state_of_each_cell() -> None:
    """A breaker that opened and closed within a cell was open in it, and is closed in the next one."""
    strip = Strip(NOW)
    for letter in "coc":
        strip.note(NOW + 1, letter)
    assert strip.text(NOW + SECONDS, 2) == "o0c0"


def test_a_strip_has_nothing_before_it_began() -> None:
    """Of the time before a breaker was seen nothing is said."""
    strip = Strip(NOW)
    strip.note(NOW, "c")
    assert strip.text(NOW) == "-0" * (CELLS - 1) + "c0"


def test_a_strip_goes_on_in_the_state_that_lasts() -> None:
    """Cells in which nothing was said are of the state before them; after ten minutes all are."""
    strip = Strip(NOW)
    strip.note(NOW, "o")
    assert strip.text(NOW + 3 * SECONDS, 5) == "-0o0o0o0o0"
    assert strip.text(NOW + 10_000 * SECONDS) == "o0" * CELLS


@pytest.mark.parametrize(
    ("failures", "digit"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (255, 8), (256, 9), (10**6, 9)]
)
def test_failures_are_a_digit(failures: int, digit: int) -> None:
    """The failures of a cell are told by one digit, which grows when they double."""
    strip = Strip(NOW)
    strip.note(NOW, "c")
    strip.add_failures(NOW, failures)
    assert strip.text(NOW, 1) == f"c{digit}"


def test_a_clock_that_is_set_back_harms_no_strip() -> None:
    """What comes by an earlier time counts in the newest cell, and time goes on from there."""
    strip = Strip(NOW)
    strip.note(NOW, "c")
    strip.add_failures(NOW - 3600, 1)
    assert strip.text(NOW - 3600, 1) == "c1"
    strip.note(NOW - 3600 + SECONDS, "o")
    assert strip.text(NOW - 3600 + SECONDS, 2) == "c1o0"
