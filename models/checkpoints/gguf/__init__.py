"""GGUF files: header, metadata, and tensors of all types."""
