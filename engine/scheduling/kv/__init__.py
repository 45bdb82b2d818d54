"""KV cache blocks and recurrent states: ownership, prefix sharing, eviction."""
