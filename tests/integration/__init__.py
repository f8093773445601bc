"""The interceptors against real servers on loopback."""
