"""A registry that is made from a service config: reloaded, watched, written again, and what a channel gets of it."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from examples.pricing.v1 import pricing_pb2
from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    BulkheadFullError,
    EndedCall,
    MethodPolicy,
    Outcome,
    Reloaded,
    RetryPolicy,
    ServiceConfigError,
    State,
)
from grpc_breaker.testing import FakeClock
from tests.support.child import in_child

METHOD = "pricing.v1.Pricing/GetPrice"
PATIENCE = 30


def document(**parts: Any) -> dict[str, Any]:
    """A document with one entry, for `METHOD`."""
    return {"methodConfig": [{"name": [{"service": "pricing.v1.Pricing", "method": "GetPrice"}], **parts}]}


def test_what_a_document_covers() -> None:
    """The entry of a document is the policy of its method; what no entry covers is left alone."""
    breakers = BreakerRegistry.from_service_config(document(circuitBreaker={"consecutiveFailures": 2}))
    assert breakers[METHOD].policy == BreakerPolicy(consecutive_failures=2)
    assert breakers.breaker_for("/pricing.v1.Pricing/Quote") is None


def test_text_file_and_dict_say_the_same(tmp_path: Path) -> None:
    """A path, JSON text and a dict are one document."""
    said = document(bulkhead={"maxConcurrentCalls": 1})
    path = tmp_path / "resilience.json"
    path.write_text(json.dumps(said))
    for source in (said, json.dumps(said), path, str(path)):
        breakers = BreakerRegistry.from_service_config(source)
        with breakers[METHOD].admit(), pytest.raises(BulkheadFullError):
            breakers[METHOD].admit()
        assert breakers.to_service_config() == said


def test_what_the_registry_is_made_with() -> None:
    """Clock, chance and size are the registry's own, as for one that is made in Python."""
    clock = FakeClock()
    config = document(circuitBreaker={"consecutiveFailures": 1, "resetTimeout": "10s"})
    breakers = BreakerRegistry.from_service_config(config, clock=clock, random=lambda: 0.5, max_breakers=3)
    breakers[METHOD].admit().failure()
    assert breakers[METHOD].retry_after == pytest.approx(10.5)


def test_functions_by_name() -> None:
    """A document names a function, and Python says which that is; written again, it has its name."""

    def picky(ended: EndedCall) -> Outcome | None:
        return Outcome.FAILURE

    said = document(circuitBreaker={"classify": "picky"})
    breakers = BreakerRegistry.from_service_config(said, functions={"picky": picky})
    assert breakers[METHOD].policy.classify is picky
    assert breakers.to_service_config() == said
    with pytest.raises(ServiceConfigError, match="picky"):
        BreakerRegistry.from_service_config(said, functions={"pickier": picky})


def test_policies_in_python_as_a_document() -> None:
    """Policies that were given in Python can be written as a document that means the same."""
    policies = {METHOD: MethodPolicy(timeout=0.5, max_concurrent_calls=3, retry=RetryPolicy())}
    said = BreakerRegistry(policies, default=None).to_service_config()
    again = BreakerRegistry.from_service_config(said)
    assert again.to_service_config() == said
    assert again.reconfigure(policies, default=None) == ()


def test_reload_keeps_what_was_counted() -> None:
    """A reload changes the policy, and neither the state nor what was counted nor the calls in flight."""
    breakers = BreakerRegistry.from_service_config(document(circuitBreaker={"consecutiveFailures": 3}))
    breaker = breakers[METHOD]
    running = breaker.admit()
    for _ in range(2):
        breaker.admit().failure("UNAVAILABLE")
    assert breakers.reload(document(circuitBreaker={"consecutiveFailures": 4})) == Reloaded((METHOD,), ())
    assert (breakers[METHOD], breaker.in_flight, breaker.snapshot()["window"]["failures"]) == (breaker, 1, 2)
    running.failure("UNAVAILABLE")
    assert breaker.state is State.CLOSED
    breaker.admit().failure("UNAVAILABLE")
    assert breaker.state is State.OPEN


def test_reload_of_what_is_wrong_changes_nothing() -> None:
    """Where something in a document is wrong, all of it is refused, and the next reload works."""
    breakers = BreakerRegistry.from_service_config(document(circuitBreaker={"consecutiveFailures": 3}))
    before = breakers.to_service_config()
    with pytest.raises(ServiceConfigError):
        breakers.reload(document(circuitBreaker={"consecutiveFailures": 4}, bulkhead={"maxConcurrentCalls": 0}))
    assert (breakers.to_service_config(), breakers[METHOD].policy.consecutive_failures) == (before, 3)
    assert breakers.reload(document(circuitBreaker={"consecutiveFailures": 4})).changed == (METHOD,)


def test_reload_of_the_same_file(tmp_path: Path) -> None:
    """Without a source, a reload reads the file from before; a registry that had none says so."""
    path = tmp_path / "resilience.json"
    path.write_text(json.dumps(document(circuitBreaker={})))
    breakers = BreakerRegistry.from_service_config(path)
    path.write_text(json.dumps(document(circuitBreaker={"minimumCalls": 7})))
    assert breakers.reload() == Reloaded((METHOD,), ())
    assert breakers[METHOD].policy.minimum_calls == 7
    with pytest.raises(TypeError, match="was not made from a service config"):
        BreakerRegistry().reload()


def test_reload_says_what_waits_for_the_next_channel() -> None:
    """What only a channel does is named where it has changed."""
    breakers = BreakerRegistry.from_service_config(document(circuitBreaker={}))
    balanced = {**document(circuitBreaker={}, waitForReady=True), "loadBalancingConfig": [{"round_robin": {}}]}
    assert breakers.reload(balanced) == Reloaded((), ("loadBalancingConfig", "waitForReady"))


def test_retries_of_streams_are_the_channels() -> None:
    """A channel gets the retries of the methods that stream, where it is told which those are, and no timeout."""
    retry = {
        "maxAttempts": 3,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    service = {"name": [{"service": "pricing.v1.Pricing"}], "timeout": "1s", "retryPolicy": retry}
    breakers = BreakerRegistry.from_service_config({"methodConfig": [service]})
    assert breakers.channel_options() == []
    ((name, text),) = breakers.channel_options(pricing_pb2)
    retried = [entry for entry in json.loads(text)["methodConfig"] if "retryPolicy" in entry]
    assert name == "grpc.service_config"
    assert "timeout" not in text
    assert [it["method"] for it in retried[0]["name"]] == ["Quote", "UploadPrices", "WatchPrices"]
    assert breakers.reload({"methodConfig": [{**service, "retryPolicy": {**retry, "maxAttempts": 2}}]}) == Reloaded(
        ("pricing.v1.Pricing",), ("retryPolicy",)
    )


def test_retries_in_python_reach_the_channel_too() -> None:
    """The same holds for policies given in Python, whatever else they have that a document cannot say."""
    policies = {
        "pricing.v1.Pricing": MethodPolicy(retry=RetryPolicy(), breaker=BreakerPolicy(classify=lambda ended: None)),
        ("pricing.v1.Pricing", "eu"): MethodPolicy(retry=RetryPolicy(max_attempts=2)),
    }
    ((_, text),) = BreakerRegistry(policies, default=None).channel_options(pricing_pb2)
    assert "retryPolicy" in text
    assert BreakerRegistry().channel_options(pricing_pb2) == []


class Watched(logging.Handler):
    """A file that a registry watches, and what the registry logs of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.path.write_bytes(good(1))
        self.breakers = BreakerRegistry.from_service_config(path)
        self.said: SimpleQueue[str] = SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        if str(self.path) in record.getMessage():  # else it is of another test's file, which was being read at its end
            self.said.put(record.getMessage())

    def write(self, content: bytes) -> str:
        """Replace the file, as a whole; returns what is logged then."""
        new = self.path.with_suffix(".new")
        new.write_bytes(content)
        new.replace(self.path)
        return self.said.get(timeout=PATIENCE)


@pytest.fixture
def watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Watched]:
    """A watched file that was read once."""
    caplog.set_level(logging.INFO, "grpc_breaker")
    watched = Watched(tmp_path / "resilience.json")
    logging.getLogger("grpc_breaker").addHandler(watched)
    end = watched.breakers.watch(watched.path, every=0.01)
    assert "was read" in watched.said.get(timeout=PATIENCE)
    yield watched
    end()
    logging.getLogger("grpc_breaker").removeHandler(watched)


def good(minimum_calls: int) -> bytes:
    """A document."""
    return json.dumps(document(circuitBreaker={"minimumCalls": minimum_calls})).encode()


def test_watch_takes_what_is_good(watched: Watched) -> None:
    """A file whose content changes is put in force; one that is wrong is logged and changes nothing."""
    assert "was read" in watched.write(good(7))
    assert watched.breakers[METHOD].policy.minimum_calls == 7
    for bad in (b"", b'{"methodConfig": [', b"\xff\xfe", b'{"methodConfig": [{"nam": []}]}'):
        assert "was not taken" in watched.write(bad)
        assert watched.breakers[METHOD].policy.minimum_calls == 7
    assert "was read" in watched.write(good(8))
    assert watched.breakers[METHOD].policy.minimum_calls == 8


def test_watch_survives_a_file_that_vanishes(watched: Watched) -> None:
    """A file that is gone is logged, and taken again once it is there."""
    watched.path.unlink()
    assert "was not taken" in watched.said.get(timeout=PATIENCE)
    assert "was read" in watched.write(good(9))
    assert watched.breakers[METHOD].policy.minimum_calls == 9


def test_watch_takes_a_file_that_vanished_as_it_was_read(tmp_path: Path) -> None:
    """A file that is gone between the look and the reload is taken once it is there again, with the same content."""
    path, away, taken = tmp_path / "resilience.json", tmp_path / "away", threading.Event()
    path.write_bytes(good(1))

    class Meeting(BreakerRegistry):
        """Meets no file the first time."""

        met = 0

        def reload(self, source: Any = None) -> Reloaded:
            self.met += 1
            if self.met > 1:
                taken.set()
                return super().reload(source)
            path.rename(away)
            try:
                return super().reload(source)
            finally:
                away.rename(path)

    breakers = Meeting.from_service_config(path)
    path.write_bytes(good(9))
    end = breakers.watch(path, every=0.01)
    assert taken.wait(PATIENCE)
    end()


def test_watch_says_once_what_is_wrong(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad file that stays is looked at again and again, and logged once."""
    assert "was not taken" in watched.write(b"{")
    looks, read = SimpleQueue[None](), Path.open

    def counted(path: Path, *arguments: Any) -> Any:
        looks.put(None)
        return read(path, *arguments)

    monkeypatch.setattr(Path, "open", counted)
    for _ in range(3):
        looks.get(timeout=PATIENCE)
    assert watched.said.empty()


def test_watch_sees_a_link_that_changes(tmp_path: Path) -> None:
    """What Kubernetes does with a mounted file, another target of a link with the same time, is seen."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "resilience.json").write_bytes(good(number))
    data = tmp_path / "..data"
    data.symlink_to(tmp_path / "1")
    breakers = BreakerRegistry.from_service_config(data / "resilience.json")
    changed = threading.Event()
    policy = breakers[METHOD].policy
    end = breakers.watch(data / "resilience.json", every=0.01)
    other = tmp_path / "..new"
    other.symlink_to(tmp_path / "2")
    other.replace(data)
    while breakers[METHOD].policy is policy:
        changed.wait(0.01)
    end()
    assert breakers[METHOD].policy.minimum_calls == 2


def test_watch_ends_with_the_registry(tmp_path: Path) -> None:
    """A watch does not keep its registry alive, and its thread ends with it."""
    path = tmp_path / "resilience.json"
    path.write_bytes(good(1))
    before = set(threading.enumerate())
    breakers = BreakerRegistry.from_service_config(path)
    breakers.watch(path, every=0.01)
    (thread,) = set(threading.enumerate()) - before
    gone = weakref.ref(breakers)
    del breakers
    thread.join(PATIENCE)
    gc.collect()
    assert (gone(), thread.is_alive()) == (None, False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_watch_goes_on_in_a_forked_child(tmp_path: Path) -> None:
    """A forked child, which has none of its parent's threads, watches the file, too."""
    path = tmp_path / "resilience.json"
    path.write_bytes(good(1))
    breakers = BreakerRegistry.from_service_config(path)
    end = breakers.watch(path, every=0.01)

    def child() -> int:
        path.write_bytes(good(2))
        waiting = threading.Event()
        while breakers[METHOD].policy.minimum_calls == 1:
            waiting.wait(0.01)
        return breakers[METHOD].policy.minimum_calls

    assert in_child(child) == 2
    end()


@pytest.mark.parametrize(
    ("path", "every", "error"),
    [
        ("", 5, TypeError),
        (7, 5, TypeError),
        ("resilience.json", "5", TypeError),
        ("resilience.json", True, TypeError),
        ("resilience.json", 0, ValueError),
        ("resilience.json", float("nan"), ValueError),
    ],
)
def test_watch_of_something_else(path: Any, every: Any, error: type[Exception]) -> None:
    """What cannot be watched is an error at once."""
    with pytest.raises(error):
        BreakerRegistry().watch(path, every=every)
