"""Adapters: reading them beside the steps, keeping them in memory, and putting them into the model's slots."""
