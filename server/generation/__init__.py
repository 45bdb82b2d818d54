"""The generation of one request: prompts become choices, choices become deltas of text, and all of it is counted."""
