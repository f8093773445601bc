"""Recorded traffic played through breakers: `grpc_breaker.replay` is the public face.

calls.py       one recorded call, and what a record may not hold
reading.py     from files to calls: which format, gzip, lines; json_lines.py, csv_rows.py, otlp.py
ordering.py    calls in the order of their starts, in bounded memory
policies.py    what is played: policies, service configs, the text of `--policy`
playing.py     the calls through the real machine, under a moved clock
health.py      when a method was healthy and when sick, by the record alone
timeline.py    counts over time, in bounded memory
report.py      what came of it, as objects and plain data; text.py for terminals; page.py and drawing.py in HTML
scenarios.py   made-up traffic; writing.py writes it as a record
sensitivity.py, advice.py    what to change
recorder.py    what a running client records: lines.py makes its lines, rotation.py keeps its files
command.py     `grpc-breaker replay`
"""
