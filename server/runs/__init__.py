"""Resumable streams, which outlive their connections: a task writes each stream's events to a log that clients read."""
