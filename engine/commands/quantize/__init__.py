"""`headrace quantize`: calibration, and a quantized checkpoint."""
