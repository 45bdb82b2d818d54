"""The C++ kernels (src/), compiled for and loaded on this processor."""
