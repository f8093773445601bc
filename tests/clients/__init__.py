"""Real clients against real servers in processes of their own; `make test-clients` installs and runs them."""
