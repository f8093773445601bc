"""Recorded traffic: what a running client writes of it, and how it is played; `grpc_breaker.replay` is the public face.

recorder.py     what a running client records: lines.py makes its lines, rotation.py keeps its files
calls.py        one recorded call, and what a record may not hold
reading.py      from files to calls: which format, gzip, lines; json_lines.py, csv_rows.py, otlp.py
ordering.py     calls in the order of their starts, in bounded memory
policies.py     what is played: policies, service configs, the text of `--policy`
playing.py      the calls through the real machine, under a moved clock
health.py       when a method was healthy and when sick, by the record alone
timeline.py     counts over time, in bounded memory
report.py       what came of it, as objects and plain data; text.py for terminals; page.py and drawing.py in HTML
running.py      a replay from its source to its report
sensitivity.py  where the verdict on a policy flips
advice.py       what a record says of deadlines, bulkheads and thresholds
scenarios.py    made-up traffic; writing.py writes it as a record
"""
