"""Pooling models, which turn texts into vectors or scores: queue, batching, and the engine that runs the batches."""
