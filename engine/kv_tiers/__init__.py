"""Storage for blocks of the KV cache that its pool evicts."""
