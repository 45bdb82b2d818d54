"""LoRA adapters: read from disk while steps run, kept in memory, and copied into the model's adapter slots."""
