"""What the admin service says of breakers, and what operators may do, on every kind of server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from grpc_breaker import BreakerPolicy, BreakerRegistry, State
from grpc_breaker.admin import add_breaker_admin_servicer
from grpc_breaker.admin.v1 import admin_pb2 as pb
from grpc_breaker.testing import FakeClock, hold_open
from tests.admin.conftest import fail
from tests.admin.serving import held, listed, refusal
from tests.support.server import PATIENCE

GET, LIST, COUNT = "pricing.v1.Pricing/GetPrice", "pricing.v1.Pricing/ListPrices", "stock.v1.Stock/Count@eu"

Serve = Callable[..., Any]


def test_list_says_what_each_breaker_does(serve: Serve, breakers: BreakerRegistry) -> None:
    """Each breaker has its state, what opened it, when, until when, its counts and its last failure."""
    stub = serve(breakers)
    breakers[GET].admit().ignore()
    fail(breakers, GET)
    permit = breakers[LIST].admit()
    with pytest.raises(Exception, match="circuit breaker open"):
        breakers[GET].admit()
    found = listed(stub)
    assert list(found) == [GET, LIST, COUNT]
    ill = found[GET]
    assert (ill.state, ill.condition, ill.sequence, ill.enforced) == (pb.STATE_OPEN, "failure_threshold", 1, True)
    assert (ill.successes, ill.failures, ill.ignored, ill.rejected) == (1, 2, 1, 1)
    assert (ill.window_calls, ill.window_failures) == (3, 2)
    assert (ill.last_failure.status, ill.last_failure.details) == ("UNAVAILABLE", "failed to connect")
    assert 50 < ill.retry_after.seconds <= 60
    assert ill.since.seconds == int(breakers[GET].changes[-1].time)
    assert not ill.HasField("hold")
    well = found[LIST]
    assert (well.state, well.condition, well.in_flight) == (pb.STATE_CLOSED, "", 1)
    assert not well.HasField("since")
    assert not well.HasField("last_failure")
    assert well.HasField("retry_after")
    assert well.retry_after.ToNanoseconds() == 0
    permit.success()


def test_list_shows_a_change_at_once(serve: Serve, breakers: BreakerRegistry) -> None:
    """Who lists right after a change sees it, however short the time since another list."""
    stub = serve(breakers)
    assert listed(stub)[GET].state == pb.STATE_CLOSED
    fail(breakers, GET)
    assert listed(stub)[GET].state == pb.STATE_OPEN
    breakers[GET].reset()
    breakers["new.Service/Method"].admit().success()
    found = listed(stub)
    assert found[GET].state == pb.STATE_CLOSED
    assert "new.Service/Method" in found


def test_list_says_which_process(serve: Serve, breakers: BreakerRegistry) -> None:
    """The response says who this is, and whether changes are allowed."""
    import os
    import socket

    from grpc_breaker import __version__

    process = serve(breakers, allow_changes=True).ListBreakers(pb.ListBreakersRequest(), timeout=PATIENCE).process
    assert (process.pid, process.host, process.version) == (os.getpid(), socket.gethostname(), __version__)
    assert process.allow_changes
    assert process.program
    assert process.HasField("started")


@pytest.mark.parametrize(
    ("name", "states", "expected"),
    [
        ("", [], [GET, LIST, COUNT]),
        ("pricing.v1.Pricing", [], [GET, LIST]),
        (GET, [], [GET]),
        (f"/{GET}", [], [GET]),
        ("@eu", [], [COUNT]),
        ("stock.v1.Stock@eu", [], [COUNT]),
        ("pricing.v1.Pric", [], []),
        ("", [pb.STATE_OPEN], [GET]),
        ("", [pb.STATE_OPEN, pb.STATE_CLOSED], [GET, LIST, COUNT]),
        ("pricing.v1.Pricing", [pb.STATE_CLOSED], [LIST]),
    ],
)
def test_filters(name: str, states: list[int], expected: list[str], serve: Serve, breakers: BreakerRegistry) -> None:
    """A filter has a method, a service, a target, states; no breaker is made by asking for one."""
    stub = serve(breakers)
    fail(breakers, GET)
    assert list(listed(stub, name, *states)) == expected
    assert len(breakers) == 3


def test_the_method_of_a_group_means_the_group(serve: Serve, breakers: BreakerRegistry) -> None:
    """A method that shares a breaker is found by its own name."""
    breakers["stock.v1.Stock/Reserve"].admit().success()
    assert list(listed(serve(breakers), "stock.v1.Stock/Reserve")) == ["warehouse"]


def test_wrong_filters_are_refused(serve: Serve, breakers: BreakerRegistry) -> None:
    """Everything that is wrong with a filter is said at once."""
    request = pb.ListBreakersRequest(filter=pb.Filter(name="a@b c", states=[pb.STATE_UNSPECIFIED, 99]))
    code, details = refusal(serve(breakers).ListBreakers, request)
    assert code == "INVALID_ARGUMENT"
    assert "filter.name: target must be" in details
    assert "filter.states must be states other than STATE_UNSPECIFIED, got [0, 99]" in details


def test_get_says_everything(serve: Serve, breakers: BreakerRegistry) -> None:
    """One breaker has its snapshot and its last changes, too."""
    fail(breakers, GET)
    response = serve(breakers).GetBreaker(pb.GetBreakerRequest(name=f"/{GET}"), timeout=PATIENCE)
    assert (response.breaker.name, response.breaker.state) == (GET, pb.STATE_OPEN)
    assert response.process.pid
    snapshot = MessageToDict(response.snapshot)
    ours = breakers[GET].snapshot()
    assert {**snapshot, "retry_after": 0} == {**ours, "retry_after": 0, "policy": snapshot["policy"]}
    assert snapshot["policy"]["failure_threshold"] == 2
    (change,) = response.changes
    assert (change.breaker, change.previous, change.state) == (GET, pb.STATE_CLOSED, pb.STATE_OPEN)
    assert (change.reason, change.status, change.details) == ("failure_threshold", "UNAVAILABLE", "failed to connect")
    assert (change.calls, change.failures, len(change.last_failures)) == (3, 2, 2)


def test_get_makes_no_breaker(serve: Serve, breakers: BreakerRegistry) -> None:
    """A name without a breaker is not found, and the nearest one is named."""
    stub = serve(breakers)
    assert refusal(stub.GetBreaker, pb.GetBreakerRequest(name="pricing.v1.Pricing/GetPrize")) == (
        "NOT_FOUND",
        f"there is no breaker 'pricing.v1.Pricing/GetPrize'; did you mean {GET!r}?",
    )
    assert refusal(stub.GetBreaker, pb.GetBreakerRequest(name="x")) == ("NOT_FOUND", "there is no breaker 'x'")
    assert len(breakers) == 3


def test_hold_and_reset(serve: Serve, breakers: BreakerRegistry) -> None:
    """Operators hold breakers by name for a time, with a reason that everyone sees, and reset them."""
    stub = serve(breakers, allow_changes=True)
    answer = stub.ForceOpen(held(pb.ForceOpenRequest, "pricing.v1.Pricing", 600, "vendor down"), timeout=PATIENCE)
    assert list(answer.breakers) == [GET, LIST]
    found = listed(stub)
    assert [it.state for it in found.values()] == [pb.STATE_FORCED_OPEN, pb.STATE_FORCED_OPEN, pb.STATE_CLOSED]
    assert found[GET].hold.reason == "vendor down"
    assert 590 < found[GET].hold.remaining.seconds <= 600
    assert 590 < found[GET].retry_after.seconds <= 600
    assert found[GET].hold.HasField("since")
    answer = stub.Disable(held(pb.DisableRequest, GET, 0.5), timeout=PATIENCE)
    assert list(answer.breakers) == [GET]
    assert breakers[GET].state is State.DISABLED
    answer = stub.Reset(pb.ResetRequest(name="pricing.v1.Pricing"), timeout=PATIENCE)
    assert list(answer.breakers) == [GET, LIST]
    assert {breaker.state for breaker in breakers} == {State.CLOSED}


def test_a_hold_of_its_own_has_no_end(serve: Serve, breakers: BreakerRegistry) -> None:
    """What the process itself held for good is shown so."""
    breakers[GET].force_open()
    stub = serve(breakers)
    found = listed(stub)[GET]
    assert found.hold.HasField("since")
    assert not found.hold.HasField("remaining")
    assert not found.HasField("retry_after")
    with hold_open(breakers, LIST):
        found = listed(stub)[LIST]
        assert (found.state, found.HasField("hold")) == (pb.STATE_FORCED_OPEN, True)
        assert not found.hold.HasField("since")


def test_times_that_are_left_are_those_of_now(serve: Serve) -> None:
    """A breaker that nothing happens to is shown with less time left each time."""
    clock = FakeClock()
    breakers = BreakerRegistry(default=BreakerPolicy(failure_threshold=1, reset_timeout=60), clock=clock)
    breakers[GET].force_open(ttl=100)
    stub = serve(breakers)
    assert listed(stub)[GET].hold.remaining.seconds == 100
    clock.advance(40)
    seen = listed(stub)[GET]
    until = 100
    while seen.hold.remaining.seconds == until:
        seen = listed(stub)[GET]
    assert (seen.hold.remaining.seconds, seen.retry_after.seconds) == (60, 60)


def test_a_hold_ends_when_it_is_looked_at(serve: Serve, breakers: BreakerRegistry) -> None:
    """A hold whose time is over has ended for who lists, without a call."""
    stub = serve(breakers, allow_changes=True)
    stub.ForceOpen(held(pb.ForceOpenRequest, GET, 0.000001), timeout=PATIENCE)
    assert listed(stub)[GET].state == pb.STATE_CLOSED


@pytest.mark.parametrize("method", ["ForceOpen", "Disable", "Reset"])
def test_changes_are_refused_unless_allowed(method: str, serve: Serve, breakers: BreakerRegistry) -> None:
    """A service is read-only unless told; the refusal names the argument, before anything else is looked at."""
    code, details = refusal(getattr(serve(breakers), method), getattr(pb, f"{method}Request")())
    assert code == "PERMISSION_DENIED"
    assert "allow_changes=True" in details


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        (pb.ForceOpenRequest(), ["name is missing", "ttl is missing", "reason is missing"]),
        (held(pb.ForceOpenRequest, "@", 1), ["name: target must be"]),
        (held(pb.ForceOpenRequest, GET, 0), ["ttl must be above 0 and at most 7 days, got 0 s"]),
        (held(pb.ForceOpenRequest, GET, -1, " "), ["ttl must be above 0", "reason is missing"]),
        (held(pb.ForceOpenRequest, GET, 7 * 86400 + 1), ["ttl must be above 0 and at most 7 days, got 604801 s"]),
        (held(pb.ForceOpenRequest, GET, 1, "x" * 201), ["reason must be 1 to 200 printable characters, got 201"]),
        (
            held(pb.ForceOpenRequest, GET, 1, "a\nb"),
            [r"reason must be 1 to 200 printable characters, got '\n' in it"],
        ),
        (
            held(pb.ForceOpenRequest, GET, 1, "保守\u3000作業"),
            [r"reason must be 1 to 200 printable characters, got '\u3000' in it"],
        ),
    ],
)
def test_wrong_holds_are_refused(request_: Any, wrong: list[str], serve: Serve, breakers: BreakerRegistry) -> None:
    """Everything that is wrong with a hold is said at once, by the fields' names, and nothing changes."""
    code, details = refusal(serve(breakers, allow_changes=True).ForceOpen, request_)
    assert code == "INVALID_ARGUMENT"
    for words in wrong:
        assert words in details
    assert details.count("; ") == len(wrong) - 1
    assert {breaker.state for breaker in breakers} == {State.CLOSED}


def test_unknown_names_are_not_found(serve: Serve, breakers: BreakerRegistry) -> None:
    """A name that no breaker and no policy has holds nothing, and the nearest one is named."""
    stub = serve(breakers, allow_changes=True)
    for call, request in (
        (stub.ForceOpen, held(pb.ForceOpenRequest, "pricing.v1.Prizing", 1)),
        (stub.Disable, held(pb.DisableRequest, "pricing.v1.Prizing", 1)),
        (stub.Reset, pb.ResetRequest(name="pricing.v1.Prizing")),
    ):
        code, details = refusal(call, request)
        assert (code, details.count("did you mean 'pricing.v1.Pricing'?")) == ("NOT_FOUND", 1)
    assert refusal(stub.Reset, pb.ResetRequest())[0] == "INVALID_ARGUMENT"


def test_changes_are_logged(serve: Serve, breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """Each change is a log record with who asked, for what, for how long and why."""
    stub = serve(breakers, allow_changes=True)
    with caplog.at_level(logging.WARNING, "grpc_breaker"):
        stub.ForceOpen(held(pb.ForceOpenRequest, GET, 60, "vendor down"), timeout=PATIENCE)
        stub.Reset(pb.ResetRequest(name=GET), timeout=PATIENCE)
    opened, closed = [it for it in caplog.messages if " asked to " in it]
    assert opened.partition(" asked to ")[2] == f"force_open {GET} for 60 s (vendor down): 1 breaker"
    assert closed.partition(" asked to ")[2] == f"reset {GET}: 1 breaker"
    assert opened.startswith(("ipv4:127.0.0.1:", "unix:"))


def test_details_of_failures_can_be_hidden(serve: Serve, breakers: BreakerRegistry) -> None:
    """`hide_details` leaves what servers said out of every answer; statuses and operators' words stay."""
    fail(breakers, GET, "customer 4711")
    breakers[GET].force_open(ttl=60, reason="vendor down")
    stub = serve(breakers, hide_details=True)
    response = stub.GetBreaker(pb.GetBreakerRequest(name=GET), timeout=PATIENCE)
    everything = stub.ListBreakers(pb.ListBreakersRequest(), timeout=PATIENCE).SerializeToString()
    everything += response.SerializeToString()
    assert b"4711" not in everything
    assert response.breaker.last_failure.status == "UNAVAILABLE"
    assert [it.details for it in response.changes] == ["", "vendor down"]
    assert [it["details"] for it in MessageToDict(response.snapshot)["changes"]] == ["", "vendor down"]
    assert response.breaker.hold.reason == "vendor down"


def test_names_that_are_no_unicode(serve: Serve) -> None:
    """A name that protobuf cannot carry is written out, and found by what is written."""
    breakers = BreakerRegistry()
    breakers["a.B/\udc80é"].admit().failure("UNAVAILABLE")
    stub = serve(breakers)
    (name,) = listed(stub)
    assert name == "a.B/\\udc80é"
    assert stub.GetBreaker(pb.GetBreakerRequest(name=name), timeout=PATIENCE).breaker.name == name


def test_evicted_breakers_are_gone(serve: Serve) -> None:
    """A breaker that the registry has forgotten is listed no more."""
    breakers = BreakerRegistry(max_breakers=1)
    breakers["a.B/C"].admit().success()
    stub = serve(breakers)
    assert list(listed(stub)) == ["a.B/C"]
    breakers["a.B/D"].admit().success()
    assert list(listed(stub)) == ["a.B/D"]


def test_one_registry_for_a_server(breakers: BreakerRegistry) -> None:
    """A second registry is refused: nobody could ask for it, and its server would not end the watches of the first."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    add_breaker_admin_servicer(server, breakers)
    with pytest.raises(RuntimeError, match="this server has the admin service of a registry already"):
        add_breaker_admin_servicer(server, BreakerRegistry())
    add_breaker_admin_servicer(grpc.server(futures.ThreadPoolExecutor(1)), breakers)


def test_one_registry_for_a_server_of_asyncio(breakers: BreakerRegistry) -> None:
    """The same on grpc.aio."""

    async def twice() -> None:
        server = grpc.aio.server()
        add_breaker_admin_servicer(server, breakers)
        with pytest.raises(RuntimeError, match="this server has the admin service of a registry already"):
            add_breaker_admin_servicer(server, breakers)

    asyncio.run(twice())
