"""API keys: who may call the server, and how much."""
