"""`python -m grpc_breaker COMMAND`, where the command `grpc-breaker` is not on the PATH."""

import sys

from grpc_breaker._cli import main

if __name__ == "__main__":
    sys.exit(main())
