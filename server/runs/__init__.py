"""Streams that outlive their connections: a log of numbered events for each, written by a task and read by clients."""
