"""A gRPC service with which operators see the breakers of a process, and hold them."""
