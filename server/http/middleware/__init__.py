"""Middleware around every request: request id, log line, API key, host name, and an early check of the queue."""
