"""What it costs, measured side by side with its peers in one process: `make bench`."""
