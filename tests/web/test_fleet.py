"""The merged state: what several processes say of the same breakers, and what of it is news to a reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from grpc_breaker._web import fleet as fleets
from grpc_breaker._web.fleet import REMEMBERED, Fleet
from grpc_breaker.admin.v1 import admin_pb2 as pb
from tests.web.conftest import Clock
from tests.web.standin import GET_PRICE, about, breaker

A, B = "a:1", "b:1"


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    """Two processes that are watched and have said nothing yet."""
    fleet = Fleet(clock, most_rows=3)
    fleet.add(A)
    fleet.add(B)
    return fleet


def say(fleet: Fleet, target: str, *breakers: pb.Breaker, pid: int | None = None) -> None:
    """A process answers for the first time."""
    fleet.connected(target, about(ord(target[0]) if pid is None else pid), breakers, polled=False)


def update(fleet: Fleet, target: str, *breakers: pb.Breaker, **fields: Any) -> None:
    fleet.updated(target, pb.WatchBreakersResponse(breakers=breakers, **fields))


def news(fleet: Fleet, version: int = 0) -> tuple[int, dict[str, Any]]:
    """Publish, and read what is newer."""
    fleet.publish()
    answer = fleet.news(version, 0)
    assert answer is not None
    return answer[0], json.loads(answer[1])


def row(fleet: Fleet, name: str = GET_PRICE) -> dict[str, Any]:
    """The row of one breaker."""
    (found,) = (it for it in news(fleet)[1]["rows"] if it["name"] == name)
    return found


def statuses(fleet: Fleet) -> list[tuple[str, str]]:
    return [(it["target"], it["status"]) for it in fleet.statuses()]


def opened(seconds: float, condition: str = "failure_rate", **fields: Any) -> pb.Breaker:
    return breaker(state=pb.STATE_OPEN, condition=condition, since=Timestamp(seconds=int(seconds)), **fields)


def test_the_worst_process_says_the_state(fleet: Fleet) -> None:
    """A breaker that is open in one of two processes is open, in one of two."""
    say(fleet, A, breaker())
    say(fleet, B, opened(900, last_failure=pb.Failure(status="UNAVAILABLE", details="gone")))
    shown = row(fleet)
    assert (shown["state"], shown["in_state"], shown["processes"]) == ("open", 1, 2)
    assert (shown["condition"], shown["since"], shown["failure"]) == ("failure_rate", 900, ["UNAVAILABLE", "gone"])


def test_of_several_the_first_one_says_since_when(fleet: Fleet) -> None:
    """Of two that are open, the one that opened first says since when, and why."""
    say(fleet, A, opened(950, "probe_failed"))
    say(fleet, B, opened(900, "failure_rate"))
    shown = row(fleet)
    assert (shown["since"], shown["condition"], shown["in_state"]) == (900, "failure_rate", 2)


def test_an_outage_lasts_through_its_probes(fleet: Fleet) -> None:
    """A breaker that probes and opens again has been unhealthy since it first opened; one that closed has not."""
    say(fleet, A, opened(900))
    row(fleet)
    update(fleet, A, breaker(state=pb.STATE_HALF_OPEN, since=Timestamp(seconds=950)))
    shown = row(fleet)
    assert (shown["since"], shown["unhealthy_since"]) == (950, 900)
    update(fleet, A, breaker(since=Timestamp(seconds=960)))
    assert row(fleet)["unhealthy_since"] is None


def test_what_processes_count_is_added_up(fleet: Fleet, clock: Clock) -> None:
    """Rates, calls in flight and hung ones are those of all processes; what was counted before they were watched is not."""
    for target in (A, B):
        say(fleet, target, breaker(successes=1000, failures=500, rejected=100))
    clock.now += 1
    for target in (A, B):
        update(fleet, target, breaker(successes=1003, failures=502, rejected=105, in_flight=3, hung=1))
    shown = row(fleet)
    assert [shown[it] for it in ("calls", "failures", "refusals", "in_flight", "hung")] == [20, 4, 10, 6, 2]


def test_a_breaker_that_is_new_counts_from_its_begin(fleet: Fleet, clock: Clock) -> None:
    """The calls of a breaker that was made since the process is watched are all counted."""
    say(fleet, A)
    clock.now += 1
    update(fleet, A, breaker(failures=7))
    assert row(fleet)["failures"] == 7


def test_what_happened_while_a_process_could_not_be_reached_is_no_rate(fleet: Fleet) -> None:
    """Calls of minutes without contact are not shown as those of the second in which it is back."""
    say(fleet, A, breaker(failures=7))
    fleet.lost(A, "UNAVAILABLE")
    say(fleet, A, breaker(failures=7000))
    assert row(fleet)["failures"] == 0


def test_a_hold_is_shown_with_its_end(fleet: Fleet, clock: Clock) -> None:
    """The hold that ends last is shown, with how many processes have one; its end does not move with each message."""
    hold = pb.Hold(reason="INC-1", since=Timestamp(seconds=1), remaining=Duration(seconds=60))
    say(fleet, A, breaker(state=pb.STATE_FORCED_OPEN, hold=hold))
    say(fleet, B, breaker())
    ends = clock.now + 60
    assert row(fleet)["hold"] == {"reason": "INC-1", "until": ends, "processes": 1}
    clock.now += 10
    update(fleet, A, breaker(state=pb.STATE_FORCED_OPEN, hold=pb.Hold(reason="INC-1", remaining=Duration(seconds=51))))
    assert row(fleet)["hold"]["until"] == ends
    update(fleet, A, breaker(state=pb.STATE_FORCED_OPEN, hold=pb.Hold(reason="INC-1", remaining=Duration(seconds=51))))
    assert row(fleet)["hold"]["until"] == ends
    update(fleet, A, breaker(state=pb.STATE_FORCED_OPEN, hold=pb.Hold(reason="INC-1", remaining=Duration(seconds=90))))
    assert row(fleet)["hold"]["until"] == ends + 40
    update(fleet, B, breaker(state=pb.STATE_FORCED_OPEN, hold=pb.Hold(reason="for good")))
    assert row(fleet)["hold"] == {"reason": "for good", "until": None, "processes": 2}


def test_a_breaker_on_trial_is_said_to_be(fleet: Fleet) -> None:
    """One that refuses nothing in some process is marked."""
    say(fleet, A, breaker())
    assert not row(fleet)["trial"]
    say(fleet, B, breaker(enforced=False))
    assert row(fleet)["trial"]


def test_a_state_of_a_newer_version_is_not_known(fleet: Fleet) -> None:
    """A state that this version has no word for is shown as unknown, and any other one is worse."""
    say(fleet, A, pb.Breaker(name=GET_PRICE))
    assert row(fleet)["state"] == "unknown"
    say(fleet, B, breaker())
    assert row(fleet)["state"] == "closed"


def test_a_process_that_is_lost_says_nothing_any_more(fleet: Fleet) -> None:
    """What a process said that cannot be reached now is not taken for true: others decide; without others it is unknown."""
    say(fleet, A, opened(900))
    say(fleet, B, breaker())
    fleet.lost(A, "UNAVAILABLE: gone")
    shown = row(fleet)
    assert (shown["state"], shown["processes"], shown["lost"]) == ("closed", 1, 1)
    fleet.lost(B, "UNAVAILABLE: gone")
    shown = row(fleet)
    assert (shown["state"], shown["last_known"], shown["processes"]) == ("unknown", "open", 0)
    assert [(it["status"], it["why"]) for it in fleet.statuses()] == [("unreachable", "UNAVAILABLE: gone")] * 2


def test_the_breakers_of_a_lost_process_are_forgotten_in_the_end(fleet: Fleet, clock: Clock) -> None:
    """After five minutes the last words of a process are too old to be shown; that it is unreachable still is."""
    say(fleet, A, breaker())
    fleet.lost(A, "UNAVAILABLE")
    version, _ = news(fleet)
    clock.now += REMEMBERED
    fleet.lost(A, "UNAVAILABLE")
    _, changes = news(fleet, version)
    assert changes["removed"] == [GET_PRICE]
    assert statuses(fleet)[0] == (A, "unreachable")


def test_a_process_that_is_gone_is_shown_for_a_while(fleet: Fleet, clock: Clock) -> None:
    """A process whose socket is gone is listed for five minutes, without its breakers."""
    say(fleet, A, breaker())
    fleet.remove(A, "its socket is gone")
    _, shown = news(fleet)
    assert shown["rows"] == []
    assert statuses(fleet) == [(B, "connecting"), (A, "gone")]
    clock.now += REMEMBERED
    fleet.publish()
    assert statuses(fleet) == [(B, "connecting")]


def test_another_process_at_the_same_target_is_another_process(fleet: Fleet) -> None:
    """Where a process was restarted, the old one is gone, and its counts are not compared with the new one's."""
    say(fleet, A, breaker(failures=100), breaker("old"), pid=1)
    say(fleet, A, breaker(failures=5), pid=2)
    assert sorted(statuses(fleet)) == [(A, "connected"), (A, "gone"), (B, "connecting")]
    _, shown = news(fleet)
    assert [(it["name"], it["failures"]) for it in shown["rows"]] == [(GET_PRICE, 0)]


def test_a_polled_process_says_everything_each_time(fleet: Fleet, clock: Clock) -> None:
    """What a polled process lists no more is gone, and what it counted meanwhile is counted."""
    fleet.connected(A, about(), [breaker(), breaker("old")], polled=True)
    clock.now += 1
    fleet.replaced(A, about(), [breaker(failures=3)])
    _, shown = news(fleet)
    assert [(it["name"], it["failures"]) for it in shown["rows"]] == [(GET_PRICE, 3)]
    assert shown["processes"]["list"][0]["polled"]


def test_a_polled_process_may_be_another_one(fleet: Fleet) -> None:
    """A process that was restarted between two questions is another one."""
    fleet.connected(A, about(1), [breaker()], polled=True)
    fleet.replaced(A, about(2), [breaker()])
    assert (A, "gone") in statuses(fleet)


def test_breakers_beyond_the_limit_are_counted(fleet: Fleet) -> None:
    """Memory is bounded: breakers beyond the limit are not kept, and the page says how many they are."""
    say(fleet, A, *(breaker(str(number)) for number in range(5)))
    _, shown = news(fleet)
    assert [it["name"] for it in shown["rows"]] == ["0", "1", "2"]
    assert shown["processes"]["left_out"] == 2
    update(fleet, A, removed=["3"])
    assert news(fleet)[1]["processes"]["left_out"] == 1


def test_processes_beyond_the_limit_are_not_watched(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: too many processes are refused, those that are watched are not."""
    monkeypatch.setattr(fleets, "MOST_PROCESSES", 2)
    assert not fleet.add("c:1")
    assert fleet.add(A)


def test_news_are_what_is_newer(fleet: Fleet) -> None:
    """A reader gets everything at first, with the strips; then the rows that changed, and no others."""
    say(fleet, A, breaker(), breaker("calm"))
    version, first = news(fleet)
    assert first["full"]
    assert set(first["strips"]) == {GET_PRICE, "calm"}
    update(fleet, A, opened(900))
    _, second = news(fleet, version)
    assert [it["name"] for it in second["rows"]] == [GET_PRICE]
    assert "full" not in second
    assert "processes" not in second


def test_without_news_a_reader_hears_the_time(fleet: Fleet, clock: Clock) -> None:
    """Where nothing changes, a reader gets the time after its patience: it can tell that from a dead server."""
    say(fleet, A, breaker())
    version, _ = news(fleet)
    clock.now += 2
    assert news(fleet, version)[1] == {"now": clock.now, "cell": int(clock.now // 5), "rows": [], "removed": []}


def test_a_row_is_news_once_it_is_published(fleet: Fleet) -> None:
    """A breaker that was said but not yet published is not shown without a state."""
    fleet.publish()
    say(fleet, A, breaker())
    answer = fleet.news(0, 0)
    assert answer is not None
    assert json.loads(answer[1])["rows"] == []


def test_a_reader_that_slept_gets_each_row_once(fleet: Fleet) -> None:
    """However much changed while a browser did not read, it gets the newest state of each row, once."""
    say(fleet, A, breaker())
    version, _ = news(fleet)
    for number in range(1000):
        update(fleet, A, breaker(in_flight=number))
        fleet.publish()
    _, shown = news(fleet, version)
    assert [it["in_flight"] for it in shown["rows"]] == [999]


def test_a_reader_that_missed_too_much_gets_everything(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removals are remembered for a while: a reader that has missed some gets a full state."""
    say(fleet, A, breaker("stays"))
    version, _ = news(fleet)
    for number in range(fleets._REMOVALS + 1):
        update(fleet, A, breaker(str(number)))
        fleet.publish()
        update(fleet, A, removed=[str(number)])
        fleet.publish()
    assert news(fleet, version)[1].get("full")


def test_a_breaker_that_comes_back_is_not_removed(fleet: Fleet) -> None:
    """A breaker that went and came again while a browser did not read is there."""
    say(fleet, A, breaker())
    version, _ = news(fleet)
    update(fleet, A, removed=[GET_PRICE])
    fleet.publish()
    update(fleet, A, breaker())
    _, shown = news(fleet, version)
    assert (shown["removed"], [it["name"] for it in shown["rows"]]) == ([], [GET_PRICE])


def test_rates_end_without_a_message(fleet: Fleet, clock: Clock) -> None:
    """A breaker that nobody calls any more is shown with no calls, although its process says nothing more."""
    say(fleet, A, breaker())
    clock.now += 1
    update(fleet, A, breaker(failures=10))
    version, _ = news(fleet)
    for _ in range(4):
        clock.now += 5
        version, last = news(fleet, version)
        if last["rows"]:
            shown = last["rows"][0]
    assert (shown["calls"], shown["recent"]) == (0, "c0c0")


def test_changes_are_published_at_once(fleet: Fleet) -> None:
    """A change of state, a new process and a lost one do not wait for the next publication; counts do."""
    say(fleet, A, breaker())
    fleet.publish()
    update(fleet, A, breaker(in_flight=1))
    assert not fleet._urgent
    fleet.wait_for_news(0)
    update(fleet, A, opened(900), changes=[pb.StateChange()])
    fleet.wait_for_news(60)  # returns


def test_a_closed_fleet_has_no_news(fleet: Fleet) -> None:
    """Readers end when the page is closed."""
    fleet.close()
    assert fleet.news(0, 60) is None
