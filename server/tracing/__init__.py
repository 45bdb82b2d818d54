"""OpenTelemetry traces, one per request, sent to a collector. The libraries are an extra and loaded only if enabled."""
