"""Incremental parsing of answers while they are generated: text, JSON and tool calls, emitted as events."""
