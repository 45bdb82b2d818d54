"""Wrappers of the native kernels, and tapes of their calls."""
