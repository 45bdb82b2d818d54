"""Anthropic's Messages: a request becomes a chat, and a generation an answer of content blocks."""
