"""Attention over the paged KV cache: back ends, rotation, groups of layers."""
