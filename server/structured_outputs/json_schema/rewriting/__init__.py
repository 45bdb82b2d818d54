"""Rewriting of JSON schemas with the keywords that a grammar enforces; oneOf, not and if become negated schemas."""
