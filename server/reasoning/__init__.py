"""Reasoning: the marks around thoughts, detected from the chat template, and readers that separate thoughts."""
