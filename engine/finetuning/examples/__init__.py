"""Training on the examples of a file: chats, prompts with completions, preference pairs, or plain text."""
