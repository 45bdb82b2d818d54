"""Running step plans on a model: batch building, the size of the KV cache, replay of recorded steps."""
