"""Filling a gap in code: prompts of the code around it, and limits by lines."""
