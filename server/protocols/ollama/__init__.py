"""Ollama's protocol: its requests as chats and completions, and a generation as its lines of JSON."""
