"""The part of `headrace doctor` that looks at what computes: processor, kernels, memory, devices, the model."""
