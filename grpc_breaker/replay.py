"""What a policy would have done with recorded traffic, played by the very machine that would have run.

    report = replay("traffic.jsonl", {"now": "service_config.json", "next": BreakerPolicy(consecutive_failures=3)})
    print(report.text())

The same on the command line: `grpc-breaker replay traffic.jsonl --config service_config.json --policy default`.
A running client records its traffic in a block `with TrafficRecorder(breakers, "traffic.jsonl"):`.
"""

from grpc_breaker._replay.advice import Advice, MethodAdvice, guide_threshold, minimum_calls, utilisation
from grpc_breaker._replay.calls import Call, RecordedChange, RecordError
from grpc_breaker._replay.playing import Change
from grpc_breaker._replay.recorder import TrafficRecorder
from grpc_breaker._replay.report import Opened, PolicyReport, Report, Warned
from grpc_breaker._replay.running import advice, replay, sensitivity
from grpc_breaker._replay.scenarios import SCENARIOS, scenario
from grpc_breaker._replay.sensitivity import Sensitivity, Varied
from grpc_breaker._replay.writing import write_record

__all__ = [
    "SCENARIOS",
    "Advice",
    "Call",
    "Change",
    "MethodAdvice",
    "Opened",
    "PolicyReport",
    "RecordError",
    "RecordedChange",
    "Report",
    "Sensitivity",
    "TrafficRecorder",
    "Varied",
    "Warned",
    "advice",
    "guide_threshold",
    "minimum_calls",
    "replay",
    "scenario",
    "sensitivity",
    "utilisation",
    "write_record",
]
