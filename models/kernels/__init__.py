"""Kernels by device: the table of operations, its columns, and tapes of native calls."""
