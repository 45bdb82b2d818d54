"""Quantization: making, packing and dequantizing matrices of codes and scales."""
