"""What quantization costs a model, measured and stored beside its weights."""
