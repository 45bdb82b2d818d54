"""Models without a family: transformers' code over headrace's attention and cache."""
