"""Facts about each part by itself: no server, no socket, no waiting."""
