"""Requests that wait for the engine: how many may, and when each will have its first token."""
