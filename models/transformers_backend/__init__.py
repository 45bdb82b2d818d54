"""Models without a family of headrace's own: transformers' code with headrace's attention and KV cache."""
