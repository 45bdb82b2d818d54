"""The part of `headrace doctor` that checks processor, kernels, memory, devices and the model."""
