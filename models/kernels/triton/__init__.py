"""Triton kernels for GPUs. Nothing here is imported on a server that computes on its CPU."""
