"""The quality loss due to quantization, measured and stored with the weights."""
