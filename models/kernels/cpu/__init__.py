"""The C++ kernels (src/), compiled and loaded for the processor at hand."""
