"""GGUF: header, metadata, and tensors in any of its types."""
