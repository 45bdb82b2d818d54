"""LoRA adapters of linear layers and embeddings: the contents of their files, and slots for rows with adapters."""
