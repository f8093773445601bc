"""The admin service and the command line, with real servers, sockets and processes."""
