"""Attention over the paged KV cache: back ends, their choice, and rotary embeddings."""
