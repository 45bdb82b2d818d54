"""Layers of a decoder: attention, recurrences, feed-forward, norms, rotary embedding, residual connections."""
