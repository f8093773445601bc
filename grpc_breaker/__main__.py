"""`python -m grpc_breaker check FILE…`, where the command `grpc-breaker` is not on the PATH."""

import sys

from grpc_breaker._cli import main

sys.exit(main())
