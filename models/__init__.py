"""Models: files to weights, tokens to logits."""
