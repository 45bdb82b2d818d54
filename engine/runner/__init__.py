"""Step plans on a real model: batches, the KV cache's size, replayed steps."""
