"""What a policy would have done with recorded traffic, played by the very machine that would have run.

    report = replay("traffic.jsonl", {"now": "service_config.json", "next": BreakerPolicy(consecutive_failures=3)})
    print(report.text())

The same on the command line: `grpc-breaker replay traffic.jsonl --config service_config.json --policy default`.
A running client records its traffic with `TrafficRecorder(breakers, "traffic.jsonl")`.
"""

from grpc_breaker._replay.calls import Call, RecordError
from grpc_breaker._replay.recorder import TrafficRecorder
from grpc_breaker._replay.report import Opened, PolicyReport, Report, Warned
from grpc_breaker._replay.running import replay
from grpc_breaker._replay.scenarios import SCENARIOS, scenario

__all__ = [
    "SCENARIOS",
    "Call",
    "Opened",
    "PolicyReport",
    "RecordError",
    "Report",
    "TrafficRecorder",
    "Warned",
    "replay",
    "scenario",
]
