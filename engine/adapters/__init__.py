"""Adapters: reading them while steps run, keeping them in memory, and putting them into the model's slots."""
