"""The commands of `grpc-breaker`: one file for each, and what they share."""
