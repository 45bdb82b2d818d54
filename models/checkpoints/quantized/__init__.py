"""Quantized checkpoints in Hugging Face layout: GPTQ, AWQ, compressed-tensors and others."""
