"""OpenAI's Responses API: translation of items to a chat's messages, and of the generation to output items."""
