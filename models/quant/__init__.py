"""Quantization: matrices of codes and scales, made, packed and dequantized."""
