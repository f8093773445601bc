"""The live page of `grpc-breaker web`: the breakers of many processes, on the operator's own machine.

watcher.py   watches one process              rates.py, strip.py   what was a moment and ten minutes ago
watchers.py  all of them, as they come        row.py               one breaker, over all processes that have it
fleet.py     what all of them said            calls.py             asks processes, and gives them orders
server.py    the page and its events, over HTTP; requests.py says which requests are refused
static/      the page
"""
