"""Programs that show the breaker at work."""
