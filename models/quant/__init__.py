"""Quantization: QuantTensor, a matrix of codes and scales; making, packing and dequantizing such matrices."""
