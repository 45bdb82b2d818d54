"""Reasoning: marks around thoughts, detected from the chat template, and readers that split thoughts from answers."""
