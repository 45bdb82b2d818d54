"""The quality that quantization costs a model, measured and stored with its weights."""
