"""Writing checkpoints in Hugging Face layout."""
