"""Rewriting of a JSON schema into the keywords that a grammar enforces, with the opposites of schemas spelled out."""
