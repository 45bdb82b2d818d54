"""Ollama's protocol: requests as chats and completions, and a generation as lines of JSON."""
