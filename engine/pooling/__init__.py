"""Texts that become vectors or scores: their queue, their batches, and the engine that computes them."""
