"""Named prefixes: what operators keep in the KV caches of models."""
