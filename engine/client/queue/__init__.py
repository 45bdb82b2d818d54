"""Requests that wait for the engine: limits on their number, and predictions of their first tokens."""
