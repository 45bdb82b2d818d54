"""`headrace quantize`: calibrates a model, and writes a quantized checkpoint."""
