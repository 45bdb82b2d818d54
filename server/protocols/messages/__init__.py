"""Anthropic's Messages API: translation of a request to a chat, and of a generation to content blocks."""
