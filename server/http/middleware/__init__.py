"""Layers around every request: its id and log line, its key, its host name, and an early look at the queue."""
