"""Draft model for speculative decoding: loading, checking and running the small model."""
