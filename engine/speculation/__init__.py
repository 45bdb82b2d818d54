"""Drafts: where they come from, how long they are, what they gain."""
