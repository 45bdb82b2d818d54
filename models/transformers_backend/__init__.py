"""Models without a family: transformers' code with headrace's attention and cache."""
