"""What tracing backends, metric readers and logs are told, with the real OpenTelemetry SDK."""
