"""Moderations: scores of texts in OpenAI's categories, read as decisions from a model that generates."""
