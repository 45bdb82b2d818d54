"""One request's generation: prompts in, choices of text deltas out, counted."""
