"""Conversations as typed content: every protocol's requests are translated to it, and prompts are rendered from it."""
