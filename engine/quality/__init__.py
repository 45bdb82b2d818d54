"""What quantization costs a model, measured and kept beside its weights."""
