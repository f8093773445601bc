"""The breakers of a process for its operators, as a gRPC service: `grpc_breaker.admin.v1.BreakerAdmin`.

    add_breaker_admin_servicer(server, breakers)  # on a server that the process has
    serve_admin(breakers)  # on a unix socket, for processes that have none

Nothing listens unless one of these is called, and nobody may change anything unless `allow_changes=True`.
"""

from grpc_breaker.admin._adding import add_breaker_admin_servicer
from grpc_breaker.admin._serving import AdminServer, serve_admin

__all__ = ["AdminServer", "add_breaker_admin_servicer", "serve_admin"]
