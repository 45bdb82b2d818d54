"""Thoughts apart from the answer: the marks around them, found from the chat template."""
