"""Code generated from `protos/grpc_breaker/admin` by `python protos/generate.py`; change the protos, never the code."""
