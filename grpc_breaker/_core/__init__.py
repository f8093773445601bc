"""The breaker itself: standard library only.

Nothing in here knows gRPC, OpenTelemetry or asyncio, sleeps, or starts a thread. `tests/unit/test_architecture.py`
reads the imports and holds the package to it.
"""
