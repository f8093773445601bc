"""Records of every format, and everything that may be wrong with one: an error with its line, or a warning."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from grpc_breaker.replay import RecordError, Report, replay
from tests.replay.records import BEGINS, GET, HEADER, document, lines, row, span, written


def read(path: Path, content: str | bytes, **options: Any) -> Report:
    """Play a file of this content."""
    return replay(written(path / "record", content), **options)


def problem(path: Path, content: str | bytes, **options: Any) -> tuple[int | None, str]:
    """What is wrong with a file of this content, and on which line."""
    with pytest.raises(RecordError) as caught:
        read(path, content, **options)
    assert caught.value.source == str(path / "record")
    return caught.value.line, caught.value.problem


def said(report: Report) -> str:
    return "\n".join(map(str, report.warnings))


# ── JSON lines ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_lines(tmp_path: Path) -> None:
    """Calls with all that a line may hold."""
    full = row(1, status="UNAVAILABLE", deadline=1.0, target="eu", stream=True, outcome="failure", details="gone")
    report = read(tmp_path, lines(row(0), full, row(2, status=5), row(3, status="Unavailable"), row(4, status="14")))
    assert (report.calls, report.good, report.bad) == (5, 2, 3)
    assert report.methods == (GET, f"{GET}@eu")


@pytest.mark.parametrize("status", ["DeadlineExceeded", "deadline exceeded", "StatusCode.CANCELLED", "Canceled", 1])
def test_spellings_of_a_status(tmp_path: Path, status: object) -> None:
    """A status is known in the spellings of other languages."""
    report = read(tmp_path, lines(row(0, status=status)))
    assert (report.bad, said(report)) == (1, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": "now"}, "time must be seconds since the epoch, between the years 2000 and 2100, got 'now'"),
        ({"time": BEGINS * 1000}, "are these milliseconds?"),
        ({"time": BEGINS * 1e6}, "are these microseconds?"),
        ({"time": BEGINS * 1e9}, "are these nanoseconds?"),
        ({"time": 12.5}, "time must be"),
        ({"time": True}, "time must be"),
        ({"time": float("nan")}, "time must be"),
        ({"time": 10**400}, "time must be"),
        ({"duration": 10**400}, "duration must be"),
        ({"duration": -0.001}, "duration must be seconds, 0 or more, got -0.001"),
        ({"duration": float("inf")}, "duration must be"),
        ({"duration": 1e12}, "duration must be"),
        ({"duration": None}, "duration must be"),
        ({"method": ""}, "method must be the name of a method, got ''"),
        ({"method": 7}, "method must be"),
        ({"status": 99}, "status must be the name of a status, or its number, 0 to 16, got 99"),
        ({"status": True}, "status must be"),
        ({"status": " "}, "status must be"),
        ({"status": []}, "status must be"),
        ({"deadline": -1}, "deadline must be"),
        ({"target": "a@b"}, "target must be"),
        ({"stream": "yes"}, "stream must be true or false"),
        ({"refused": "nobody"}, "refused must be one of breaker, bulkhead, rate, throttle"),
        ({"outcome": "good"}, "outcome must be one of failure, ignored, success"),
        ({"details": 1}, "details must be text"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """The error says the line, the field, what is allowed, and what it was."""
    line, found = problem(tmp_path, lines(row(0), row(1, **changes)))
    assert line == 3
    assert words in found


def test_missing_fields(tmp_path: Path) -> None:
    """All of them are named."""
    content = lines({"method": GET, "duration": 1.0})
    assert problem(tmp_path, content) == (2, "time and status is missing")


def test_unknown_keys_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """A misspelt key must not vanish without a word."""
    report = read(tmp_path, lines(row(0, strem=True), *[row(1, **{f"k{it}": 1}) for it in range(60)]))
    assert "Keys of calls that are not known were left out: strem." in said(report)
    assert "More keys that are not known were left out." in said(report)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("", None, "is empty"),
        ("\n \n", None, "is empty"),
        (lines(row(0), header=None), 1, "the header is missing"),
        (lines(row(0), header={**HEADER, "grpc_breaker_traffic": 2}), 1, "must be 1, the only version there is, got 2"),
        (lines(row(0), header={**HEADER, "grpc_breaker_traffic": True}), 1, "must be 1"),
        (lines(row(0), header={**HEADER, "started": "today"}), 1, "started must be seconds since the epoch"),
        (lines(row(0), header={"grpc_breaker_traffic": 1}), 1, "started must be"),
        (lines(row(0), header={**HEADER, "started": True}), 1, "started must be"),
        (lines("[1]"), 2, "must be a JSON object, got [1]"),
        (lines('{"time": 1,', row(1)), 2, 'is not JSON: {"time": 1,'),
        (lines("[" * 100_000), 2, "is not JSON"),
        ("[" * 100_000 + "\n", 1, "is neither JSON nor a header of a CSV file"),
        ("{]\n", 1, "is neither JSON nor a header of a CSV file"),
        ("[]\n", 1, "must be a JSON object"),
        (lines({"tiem": 1}), 2, "is no call (it has no method and no duration), no header and no change; it has: tiem"),
        (lines({"dropped": "many"}), 2, "dropped must be a number of calls"),
        (lines({"dropped": True}), 2, "dropped must be a number of calls"),
        (lines({"dropped": -1}), 2, "dropped must be a number of calls"),
        (
            lines({"change": "open", "time": None, "breaker": "x"}),
            2,
            "a change must have a state, a time and a breaker",
        ),
        (lines({"change": "open", "time": float("nan"), "breaker": "x"}), 2, "time must be seconds since the epoch"),
        (lines({"change": "open", "time": True, "breaker": "x"}), 2, "time must be seconds since the epoch"),
        ('{"data": [{"traceID": "1"}]}\n', 1, "looks like JSON of Jaeger's own"),
        (lines().encode() + b'{"method": "\xff"}\n', 2, "is not UTF-8: invalid start byte at byte 12"),
        (lines({"dropped": 1}), None, "there is no call in it that was made"),
    ],
)
def test_what_is_no_record(tmp_path: Path, content: str | bytes, line: int | None, words: str) -> None:
    """The error says where."""
    found = problem(tmp_path, content)
    assert found[0] == line
    assert words in found[1]


def test_half_a_line_at_the_end_is_left_out(tmp_path: Path) -> None:
    """A process that was killed leaves half a line behind; the rest is played, with a warning."""
    report = read(tmp_path, lines(row(0), row(1)) + '{"time": 17642500')
    assert report.calls == 2
    assert "A file ends in the middle of a line, which is left out. (at " in said(report)
    assert ":4)" in said(report)


def test_half_a_character_at_the_end_is_left_out(tmp_path: Path) -> None:
    """The half line may end within a character."""
    report = read(tmp_path, lines(row(0)).encode() + b'{"details": "caf\xc3')
    assert "in the middle of a line" in said(report)


def test_empty_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    """Neither is in the way."""
    report = read(tmp_path, b"\xef\xbb\xbf\n" + lines("", row(0), "  ", row(1)).encode())
    assert report.calls == 2


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is far too long is not held."""
    monkeypatch.setattr("grpc_breaker._replay.reading.LONGEST_LINE", 1000)
    line, found = problem(tmp_path, lines(row(0), row(1, details="x" * 2000)))
    assert (line, found) == (3, "a line has more than 1000 bytes")


# ── Doubts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [row(0, status="VERY_BAD")],
            "Statuses that gRPC does not have are played as failures, as exceptions of plain",
        ),
        ([row(0, status="UNAVAILBLE")], "did the record mean UNAVAILABLE?"),
        ([row(it, status=f"BAD{it}") for it in range(25)], "Many more statuses that gRPC does not have"),
        ([row(0, duration=4000.0)], "more than an hour"),
        ([row(0, duration=20.0, deadline=1.0)], "more than twice their deadline"),
        ([row(-100)], "Calls ended before the recorder had started"),
        ([row(0), row(0)], "exactly alike"),
        ([row(0), row(0, duration=0.1), row(0)], "exactly alike"),
        ([row(it) for it in range(3)], "All times are whole seconds"),
        ([*[row(it / 7) for it in range(900)], row(500.5)], "no call began, from 2025-11-27 13:28:48.428Z on"),
        ([row(0.5), row(3e9, duration=1.0)], "Calls end in the future"),
        ([row(0.5), {"dropped": 12, "time": BEGINS}, {"dropped": 3}], "The recorder dropped 15 calls"),
        ([row(0), {**HEADER, "pid": 8}, row(1)], "The calls of 2 processes were played as those of one"),
    ],
)
def test_what_is_doubtful_is_a_warning(tmp_path: Path, rows: list[Any], words: str) -> None:
    """It is played, and the report says why the picture may be wrong, in every form."""
    if "future" in words:
        rows = [row(0.5), row(1, duration=1e9)]
    report = read(tmp_path, lines(*rows), horizon=1000)
    assert words in said(report)
    assert words in report.text()
    assert words in json.dumps(report.as_dict()["warnings"])
    assert words.replace("'", "&#x27;") in report.html()


def test_a_plain_record_has_no_warning(tmp_path: Path) -> None:
    """Nothing is said where there is nothing to say."""
    assert said(read(tmp_path, lines(*[row(it + 0.5) for it in range(100)]))) == ""


def test_a_pause_is_no_gap(tmp_path: Path) -> None:
    """Half a minute without a call, however many come else; nor a long time where calls are rare."""
    busy = [*[row(it / 7) for it in range(900)], row(158.3)]
    rare = [row(it * 200 + 0.5) for it in range(20)]
    assert said(read(tmp_path, lines(*busy))) == said(read(tmp_path, lines(*rare))) == ""


# ── Order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_more_methods_than_share_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their calls are played as the others."""
    monkeypatch.setattr("grpc_breaker._replay.json_lines.MOST_NAMES", 1)
    report = read(tmp_path, lines(row(0), row(1, method="a.B/C"), row(2, method="a.B/D"), row(3, method="a.B/C")))
    assert report.methods == (GET, "a.B/C", "a.B/D")


def test_lines_in_the_order_of_ends(tmp_path: Path) -> None:
    """A call that took long stands behind those that began after it, and is played where it began."""
    report = read(tmp_path, lines(*[row(it + 0.5) for it in range(100)], row(0.2, duration=100.0)))
    assert report.begins == BEGINS + 0.2
    assert report.ends == BEGINS + 100.2


def test_a_line_that_comes_too_late(tmp_path: Path) -> None:
    """What is out of order by more than the horizon is an error with both lines."""
    line, found = problem(tmp_path, lines(row(0.5), row(500.5), row(100.5)))
    assert line == 4
    assert "the call began 400.000 s before that of line 3, more than the horizon of 120 s" in found
    assert read(tmp_path, lines(row(0.5), row(500.5), row(100.5)), horizon=400).calls == 3


def test_too_many_calls_within_the_horizon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whatever the horizon."""
    monkeypatch.setattr("grpc_breaker._replay.ordering.MOST_HELD", 10)
    line, found = problem(tmp_path, lines(*[row(it / 10) for it in range(20)]))
    assert line == 12
    assert "more than 10 calls begin within the horizon" in found


def test_several_files_are_merged_by_time(tmp_path: Path) -> None:
    """Rotated files in any order."""
    one = written(tmp_path / "1", lines(*[row(it + 0.5) for it in range(50)]))
    two = written(tmp_path / "2", lines(*[row(it + 50.5) for it in range(50)]))
    report = replay([two, str(one)])
    assert (report.calls, report.begins) == (100, BEGINS + 0.5)
    assert said(report) == ""
    with pytest.raises(RecordError, match="is named twice"):
        replay([one, one])


# ── A breaker at work ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_with_refused_calls(tmp_path: Path) -> None:
    """It is refused, unless it is told to go on; then the holes are said."""
    content = lines(row(0.5), row(1.5, status="UNAVAILABLE", duration=0, refused="breaker"), row(2.5))
    line, found = problem(tmp_path, content)
    assert line == 3
    assert "this call was refused (breaker) when the record was made" in found
    report = read(tmp_path, content, despite_breaker=True)
    assert report.calls == 2
    assert "made with a breaker at work: 1 calls were refused then" in said(report)


def test_recorded_changes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The changes of the live breaker are in the report, to hold the replay against; at most ten thousand of them."""
    change = {"change": "open", "breaker": GET, "reason": "failure_rate", "time": BEGINS + 1}
    report = read(tmp_path, lines(row(0.5), change))
    assert [tuple(it) for it in report.recorded_changes] == [(BEGINS + 1, GET, "open", "failure_rate")]
    assert said(report) == ""
    monkeypatch.setattr("grpc_breaker._replay.calls.MOST_CHANGES", 1)
    report = read(tmp_path, lines(row(0.5), change, change))
    assert "only the first 1 are shown" in said(report)


# ── gzip and other files ──────────────────────────────────────────────────────────────────────────────────────────────


def test_gzip(tmp_path: Path) -> None:
    """Known by its first bytes."""
    assert read(tmp_path, gzip.compress(lines(row(0.5), row(1.5)).encode())).calls == 2


def test_gzip_that_is_cut_off(tmp_path: Path) -> None:
    """What is there is played, with a warning."""
    whole = gzip.compress(lines(*[row(it + 0.5, details=f"{it**7}") for it in range(5000)]).encode())
    report = read(tmp_path, whole[: len(whole) // 2], horizon=10_000)
    assert 0 < report.calls < 5000
    assert "its gzip stream has no end" in said(report)


def test_gzip_that_is_cut_off_before_its_first_line(tmp_path: Path) -> None:
    """It is an error that says so: the file is not empty."""
    line, found = problem(tmp_path, gzip.compress(lines(row(0.5)).encode())[:12])
    assert line is None
    assert "its gzip stream ends before the first line" in found


def test_gzip_that_is_broken(tmp_path: Path) -> None:
    """A broken stream is an error with the line it was read to."""
    whole = bytearray(gzip.compress(lines(*[row(it + 0.5, details=f"{it**7}") for it in range(5000)]).encode()))
    whole[len(whole) // 2] ^= 0xFF
    line, found = problem(tmp_path, bytes(whole), horizon=10_000)
    assert line is not None
    assert found


def test_gzip_with_a_wrong_checksum(tmp_path: Path) -> None:
    """It is noticed at the end, and is an error."""
    whole = bytearray(gzip.compress(lines(row(0.5)).encode()))
    whole[-8] ^= 0xFF
    line, found = problem(tmp_path, bytes(whole))
    assert line in {0, 2}  # Pythons differ in how much they hand out before they check
    assert "cannot be read after this line: CRC check failed" in found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """None, a directory, and a path that is none."""
    for path in (tmp_path / "none", tmp_path, "a\0b"):
        with pytest.raises(RecordError, match="cannot be read"):
            replay(path)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named "-", and may be compressed, too."""
    for content in (lines(row(0.5)).encode(), gzip.compress(lines(row(0.5)).encode())):
        stdin = io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert replay("-").calls == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"{]\n"))))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="standard input:1: is neither JSON nor"):
        replay("-")


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_csv(tmp_path: Path) -> None:
    """Columns in any order, times in seconds or as ISO 8601."""
    content = (
        "status,time,method,duration,deadline,target,refused,stream,outcome\n"
        f"OK,{BEGINS},{GET},0.1,1.5,eu,,true,\n"
        f'UNAVAILABLE,2025-11-27T13:26:41.5Z,"{GET}",0.1,,,,,\n'
        "\n"
        f"14,2025-11-27T15:26:42.5+02:00,/{GET},0.1,,,,no,ignored\n"
    )
    report = read(tmp_path, content)
    assert (report.calls, report.good, report.bad, report.ignored) == (3, 1, 1, 1)
    assert "zone" not in said(report)


def test_csv_without_a_zone(tmp_path: Path) -> None:
    """Taken for UTC, with a warning."""
    report = read(tmp_path, f"time,method,duration,status\n2025-11-27T13:26:41.5,{GET},1,OK\n")
    assert "Times without a zone are taken for UTC." in said(report)
    assert report.begins == BEGINS + 1.5


def test_csv_with_columns_that_are_not_known(tmp_path: Path) -> None:
    """They are left out, with a warning."""
    report = read(tmp_path, f"time,method,duration,status,colour\n{BEGINS + 0.5},{GET},1,OK,red\n")
    assert "Columns that are not known were left out: colour." in said(report)


def test_csv_with_doubts(tmp_path: Path) -> None:
    """The same doubts as in JSON lines."""
    report = read(tmp_path, f"time,method,duration,status\n{BEGINS + 0.5},{GET},9999,OK\n")
    assert "more than an hour" in said(report)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (
            f"{BEGINS},{GET},1,OK\n",
            1,
            "the header is missing, or has no column time and method and duration and status",
        ),
        ("time,method,duration\n", 1, "has no column status"),
        ("time,method,duration,status,time\n", 1, "a column is there twice"),
        (f"time,method,duration,status\n{BEGINS},{GET},1\n", 2, "has 3 columns, and the header has 4"),
        (
            f"time,method,duration,status\nyesterday,{GET},1,OK\n",
            2,
            "time must be seconds since the epoch, or ISO 8601",
        ),
        (f"time,method,duration,status\n{BEGINS},{GET},fast,OK\n", 2, "duration must be seconds, got 'fast'"),
        (f"time,method,duration,status\n{BEGINS},{GET},nan,OK\n", 2, "duration must be"),
        (f"time,method,duration,status,stream\n{BEGINS},{GET},1,OK,maybe\n", 2, "stream must be true or false"),
        (f'time,method,duration,status\n{BEGINS},"{GET}"x,1,OK\n', 2, "is no CSV"),
    ],
)
def test_what_is_wrong_with_csv(tmp_path: Path, content: str, line: int, words: str) -> None:
    """The error says where."""
    found = problem(tmp_path, content)
    assert found[0] == line
    assert words in found[1]


@pytest.mark.parametrize("rest", [f"{BEGINS},{GET}", f'{BEGINS},"pricing'])
def test_half_a_row_at_the_end(tmp_path: Path, rest: str) -> None:
    """As half a line of JSON."""
    report = read(tmp_path, f"time,method,duration,status\n{BEGINS + 0.5},{GET},1,OK\n{rest}")
    assert report.calls == 1
    assert "in the middle of a line" in said(report)


# ── OTLP/JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────

GRPC = ("rpc.system", "grpc")
NAMED = (("rpc.service", "pricing.v1.Pricing"), ("rpc.method", "GetPrice"))


@pytest.mark.parametrize(
    ("attributes", "failed"),
    [
        ([GRPC, *NAMED, ("rpc.grpc.status_code", 14)], 1),
        ([*NAMED, ("rpc.grpc.status_code", 0)], 0),
        ([GRPC, *NAMED, ("rpc.response.status_code", "UNAVAILABLE")], 1),
        ([("rpc.system.name", "grpc"), ("rpc.method", GET), ("rpc.status_code", "OK")], 0),
        ([GRPC, ("rpc.method", f"/{GET}"), ("rpc.status_code", 4)], 1),
    ],
)
def test_spans_of_every_age(tmp_path: Path, attributes: list[Any], failed: int) -> None:
    """The names that the conventions have had for method and status."""
    report = read(tmp_path, json.dumps(document(span(0.5, 0.1, *attributes), service_name="checkout")) + "\n")
    assert (report.calls, report.bad) == (1, failed)
    assert report.methods == (GET,)
    assert "Sampled traces bend rates" in said(report)
    assert (report.begins, round(report.ends - report.begins, 6)) == (BEGINS + 0.5, 0.1)


def test_spans_named_by_their_span(tmp_path: Path) -> None:
    """A span without attributes for the method is named by it."""
    content = json.dumps(document(span(0.5, 0.1, ("rpc.grpc.status_code", 0), name=f"Sent.{GET}")))
    assert read(tmp_path, content).methods == (GET,)


def test_spans_without_a_grpc_status(tmp_path: Path) -> None:
    """Played by the span's own, with a warning."""
    spans = [span(0.5, 0.1, GRPC, *NAMED, status={"code": 2}), span(1.5, 0.1, GRPC, *NAMED)]
    report = read(tmp_path, json.dumps(document(*spans)))
    assert (report.good, report.bad) == (1, 1)
    assert "Spans without a gRPC status" in said(report)


def test_other_spans_are_no_calls(tmp_path: Path) -> None:
    """Those of servers, and of HTTP clients."""
    ours = span(0.5, 0.1, GRPC, *NAMED, ("rpc.grpc.status_code", 0), kind="SPAN_KIND_CLIENT")
    server = span(0.5, 0.1, GRPC, *NAMED, ("rpc.grpc.status_code", 0), kind=2)
    other = span(0.5, 0.1, ("rpc.system", "connect_rpc"), ("rpc.grpc.status_code", 0))
    assert read(tmp_path, json.dumps(document(ours, server, other, span(0.5, 0.1)))).calls == 1
    line, found = problem(tmp_path, json.dumps(document(server, other)))
    assert (line, "there is no client span of gRPC in it" in found) == (1, True)


def test_documents_on_lines_and_over_lines(tmp_path: Path) -> None:
    """As the collector writes them, and as a person saves one."""
    both = [document(span(it + 0.5, 0.1, GRPC, *NAMED, ("rpc.grpc.status_code", 0))) for it in range(2)]
    on_lines = "\n".join(map(json.dumps, both)) + "\n\n"
    assert read(tmp_path, on_lines).calls == 2
    assert read(tmp_path, json.dumps(both[0], indent=2)).calls == 1
    older = json.dumps(
        document(span(0.5, 0.1, *NAMED, ("rpc.grpc.status_code", 0)), scopes="instrumentationLibrarySpans")
    )
    assert read(tmp_path, older).calls == 1
    report = read(tmp_path, on_lines[:-20])
    assert report.calls == 1
    assert "in the middle of a line" in said(report)


def test_spans_of_several_processes(tmp_path: Path) -> None:
    """Processes are told apart by their resource."""
    made = span(0.5, 0.1, GRPC, *NAMED, ("rpc.grpc.status_code", 0), status={"message": "fine"})
    one, two = document(made, service_name="checkout"), document(made, service_name="mail")
    assert "2 processes" in said(read(tmp_path, f"{json.dumps(one)}\n{json.dumps(two)}\n"))


def test_a_span_with_doubts(tmp_path: Path) -> None:
    """The same doubts as of other calls."""
    content = json.dumps(document(span(0.5, 9999, GRPC, *NAMED, ("rpc.grpc.status_code", 0))))
    assert "more than an hour" in said(read(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ('{"resourceSpans": 7}\n', 1, "is not as OTLP/JSON says"),
        ('{"resourceSpans": [7]}\n', 1, "is not as OTLP/JSON says"),
        ('{"resourceSpans": null}\n', 1, "there is no client span"),
        ('{"resourceSpans": [\n', 1, "is not JSON"),
        (json.dumps(document(span(0, 1, ("rpc.grpc.status_code", 0), startTimeUnixNano="x"))), 1, "nanoseconds"),
        (json.dumps(document(span(0, 1, ("rpc.grpc.status_code", 0), endTimeUnixNano=10**400))), 1, "nanoseconds"),
        (json.dumps(document(span(0, 1, attributes=[{}]))), 1, "the key of an attribute must be text, got None"),
        (
            json.dumps(document(span(0, 1, attributes=[{"key": "a", "value": {"intValue": "x"}}]))),
            1,
            "an intValue must be an integer, got 'x'",
        ),
        (json.dumps(document(span(0, 1, ("rpc.grpc.status_code", 77), spanId="ab"))), 1, "span ab: status must be"),
        (json.dumps(document(span(0, -1, ("rpc.grpc.status_code", 0)))), 1, "duration must be seconds, 0 or more"),
        (f"{json.dumps(document(span(0, 1, ('rpc.grpc.status_code', 0))))}\n{{]\n", 2, "is not JSON"),
    ],
)
def test_what_is_wrong_with_spans(tmp_path: Path, content: str, line: int, words: str) -> None:
    """The error says where."""
    found = problem(tmp_path, content)
    assert found[0] == line
    assert words in found[1]


def test_a_document_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document over many lines is held as a whole, so its size has an end."""
    monkeypatch.setattr("grpc_breaker._replay.otlp.MOST_CHARACTERS", 1000)
    content = json.dumps(document(*[span(it, 0.1, GRPC, *NAMED) for it in range(10)]), indent=1)
    _, found = problem(tmp_path, content)
    assert "write one on each line, as the collector does" in found
