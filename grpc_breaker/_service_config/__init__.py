"""The document: what is wanted of calls, as a gRPC service config with our keys beside gRPC's own.

`read` makes policies of a document, or one error that says everything that is wrong with it; `write` makes a document
of policies; `channel_config` is what of it a channel of gRPC gets. No gRPC is imported, and no validation library.

    source.py    from a path, a text or a dict to plain JSON data
    problems.py  what is wrong, and where
    keys.py      the words of the document, and which field each is
    reader.py, writer.py, channel.py
    schema.json  the same for editors: `tests/unit/service_config/test_schema.py` holds it to `keys.py`
"""

from grpc_breaker._service_config.channel import channel_config, differences
from grpc_breaker._service_config.problems import ServiceConfigError
from grpc_breaker._service_config.reader import ServiceConfig, read
from grpc_breaker._service_config.writer import write

__all__ = ["ServiceConfig", "ServiceConfigError", "channel_config", "differences", "read", "write"]
