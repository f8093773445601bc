"""What reaches tracing backends, metric readers and logs, with the real OpenTelemetry SDK."""
