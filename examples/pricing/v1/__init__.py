"""Code generated from `protos/pricing/v1` by `python protos/generate.py`; change the protos, never the code."""
