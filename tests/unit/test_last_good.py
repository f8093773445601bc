"""The last good answers of a method: what is found again, and what is forgotten."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from grpc_breaker._core.fallback import LastGood
from grpc_breaker._core.last_good import LastGoodAnswers
from grpc_breaker.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the answers."""
    return FakeClock()


def answers(clock: FakeClock, **limits: Any) -> LastGoodAnswers:
    """An empty one."""
    return LastGoodAnswers(LastGood(**limits), clock)


def keys(kept: LastGoodAnswers) -> list[bytes]:
    """Of the keys that the tests use, those that are found; this uses each."""
    return [key for key in (b"a", b"b", b"c", b"d") if kept.find(key) is not None]


def test_last_answer_is_found(clock: FakeClock) -> None:
    """Under its key an answer is found, the last one that was kept; under another key it is not."""
    kept = answers(clock)
    kept.keep(b"a", "first", 5)
    kept.keep(b"a", "second", 6)
    assert (kept.find(b"a"), kept.find(b"b"), len(kept)) == ("second", None, 1)


def test_answer_that_is_too_old(clock: FakeClock) -> None:
    """An answer is found as long as it is no older than `max_age`; each new one begins anew."""
    kept = answers(clock, max_age=10)
    kept.keep(b"a", "old", 3)
    clock.advance(10)
    assert kept.find(b"a") == "old"
    clock.advance(0.1)
    assert kept.find(b"a") is None
    kept.keep(b"a", "new", 3)
    assert kept.find(b"a") == "new"


def test_age_alone_removes_nothing(clock: FakeClock) -> None:
    """An answer that was too old is found again where a new policy lets it be older."""
    kept = answers(clock, max_age=10)
    kept.keep(b"a", "old", 3)
    clock.advance(11)
    assert kept.find(b"a") is None
    kept.reconfigure(LastGood(max_age=20))
    assert kept.find(b"a") == "old"


def test_longest_unused_is_evicted(clock: FakeClock) -> None:
    """A full cache evicts what was used longest ago; to be found is a use, and so is to be kept again."""
    kept = answers(clock, max_entries=3)
    for key in (b"a", b"b", b"c"):
        kept.keep(key, "answer", 6)
    assert kept.find(b"a") == "answer"
    kept.keep(b"b", "again", 5)
    kept.keep(b"d", "answer", 6)
    assert keys(kept) == [b"a", b"b", b"d"]


def test_bytes_are_bounded(clock: FakeClock) -> None:
    """Answers and their keys take no more than `max_bytes` together, also where one grows in its place."""
    kept = answers(clock, max_bytes=33)
    for key in (b"a", b"b", b"c"):
        kept.keep(key, "answer", 10)
    assert (kept.bytes, keys(kept)) == (33, [b"a", b"b", b"c"])
    kept.keep(b"c", "answer", 11)
    assert (kept.bytes, keys(kept)) == (23, [b"b", b"c"])
    kept.keep(b"c", "answer", 1)
    assert kept.bytes == 13


def test_answer_that_is_too_large(clock: FakeClock) -> None:
    """An answer larger than all may be together is not kept, and drives nothing out: the one before it is found."""
    kept = answers(clock, max_bytes=20)
    kept.keep(b"a", "small", 5)
    kept.keep(b"b", "small", 5)
    kept.keep(b"a", "large", 20)
    assert (kept.find(b"a"), kept.find(b"b")) == ("small", "small")


def test_smaller_limits_in_place(clock: FakeClock) -> None:
    """A new policy with smaller limits evicts at once what was used longest ago, and keeps the rest."""
    kept = answers(clock)
    for key in (b"a", b"b", b"c", b"d"):
        kept.keep(key, "answer", 9)
    kept.reconfigure(LastGood(max_entries=3))
    assert keys(kept) == [b"b", b"c", b"d"]
    kept.reconfigure(LastGood(max_bytes=10))
    assert (keys(kept), kept.bytes) == ([b"d"], 10)


def test_key_metadata_is_that_of_the_policy(clock: FakeClock) -> None:
    """The answers know which metadata belongs to their keys."""
    assert LastGoodAnswers(LastGood(key_metadata=("tenant",)), clock).key_metadata == ("tenant",)


@pytest.mark.parametrize("seed", range(10))
def test_against_a_list(seed: int, clock: FakeClock) -> None:
    """Whatever is kept and found in whatever order, it is as with a plain list that is kept in the order of use."""
    rng = random.Random(seed)
    kept, used = answers(clock, max_entries=3, max_bytes=30), dict[bytes, tuple[int, int]]()
    for number in range(500):
        key = rng.choice([b"a", b"b", b"c", b"d", b"e"])
        if rng.random() < 0.5:
            size = rng.randrange(32)
            kept.keep(key, number, size)
            if size + 1 <= 30:
                used.pop(key, None)
                used[key] = (number, size + 1)
                while len(used) > 3 or sum(it[1] for it in used.values()) > 30:
                    used.pop(next(iter(used)))
        else:
            assert kept.find(key) == used.get(key, (None,))[0]
            if key in used:
                used[key] = used.pop(key)
        assert (len(kept), kept.bytes) == (len(used), sum(it[1] for it in used.values()))


@pytest.fixture
def switching() -> Iterator[None]:
    """Have threads switched as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_threads(clock: FakeClock) -> None:
    """Where threads keep, find and evict the same answers at once, none raises, and the bytes are counted right."""
    kept = answers(clock, max_entries=4, max_bytes=200)
    raised: list[BaseException] = []

    def act(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(3000):
                key = b"%d" % rng.randrange(8)
                if rng.random() < 0.7:
                    kept.keep(key, key, rng.randrange(60))
                else:
                    assert kept.find(key) in (None, key)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    assert len(kept) <= 4
    assert kept.bytes <= 200
    kept.reconfigure(LastGood(max_bytes=1))
    assert (len(kept), kept.bytes) == (0, 0)


@pytest.mark.usefixtures("switching")
def test_answer_is_found_while_it_is_renewed(clock: FakeClock) -> None:
    """A thread that looks for an answer finds one at every moment at which others keep newer ones."""
    kept = answers(clock)
    kept.keep(b"a", 0, 1)
    over = threading.Event()

    def renew() -> None:
        while not over.is_set():
            kept.keep(b"a", 1, 1)

    threads = [threading.Thread(target=renew) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = [kept.find(b"a") for _ in range(5000)]
    over.set()
    for thread in threads:
        thread.join()
    assert None not in found
    assert kept.bytes == 2
