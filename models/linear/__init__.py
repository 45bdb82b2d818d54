"""Linear layers and embeddings: how their weights are stored and multiplied."""
