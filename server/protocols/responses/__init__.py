"""OpenAI's Responses API: items become a chat's messages, and the answer becomes items again."""
