"""Chat templates: prompts from messages, rendered with checkpoints' Jinja templates in limited time and memory."""
