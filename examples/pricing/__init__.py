"""A shop: its pricing server, whose failures can be switched on and off, and checkouts that keep working meanwhile.

Each of its programs imports this package before grpc, and with it the setting of what gRPC's C core writes to standard
error. Newer versions write notes there about every outage, such as "Got goaway"; errors are still written.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
