"""Adapters: low-rank changes to a decoder's layers, read from PEFT folders and GGUF files."""
