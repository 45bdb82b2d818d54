"""Traces: one for each request, by OpenTelemetry, to a collector. Its libraries are an extra, loaded where it is on."""
