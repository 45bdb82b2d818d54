"""Conversations, independent of protocols: chat requests are translated to them, and prompts rendered from them."""
