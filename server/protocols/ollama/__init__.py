"""Ollama's protocol: translation of requests to chats and completions, and generations as lines of JSON."""
