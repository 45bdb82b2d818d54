"""Attention over the paged KV cache: back ends, rotary embeddings, groups of layers."""
