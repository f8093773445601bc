"""What several tests need: real servers that misbehave on demand."""
