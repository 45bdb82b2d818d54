"""Adapters: low-rank changes of a decoder's layers, read from PEFT folders and GGUF files."""
