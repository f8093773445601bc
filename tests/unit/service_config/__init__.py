"""The document: service configs with circuit breakers."""
