"""Pooling of a text's hidden states to one vector, by the settings of a sentence-transformers checkpoint or a GGUF."""
