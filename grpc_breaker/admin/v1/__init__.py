"""Code generated from `protos/grpc_breaker/admin/v1` by `python protos/generate.py`; change the protos, never the code."""
