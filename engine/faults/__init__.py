"""Fault injection for tests: wrappers around parts of the engine process."""
