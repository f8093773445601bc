"""One breaker: its states, its permits, its events, and what it says about itself."""
