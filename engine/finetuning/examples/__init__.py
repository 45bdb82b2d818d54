"""Learning the examples of a file: chats, prompts and completions, preferences, or plain text."""
