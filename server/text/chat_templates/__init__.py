"""Chat templates: prompts from messages, rendered by the Jinja programs of checkpoints within limits."""
