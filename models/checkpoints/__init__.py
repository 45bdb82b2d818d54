"""Readers of weight files: safetensors, GGUF, quantized formats."""
