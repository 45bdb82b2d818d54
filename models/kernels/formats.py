"""WeightFormat: the formats in which kernels multiply weights. Loads no library."""

import enum

import torch


class WeightFormat(enum.IntEnum):
    """Formats of weights that kernels multiply as stored: GGUF's, in the order of Format in codecs.h, and dense."""

    Q4_0 = 0
    Q4_1 = 1
    Q5_0 = 2
    Q5_1 = 3
    Q8_0 = 4
    Q2_K = 5
    Q3_K = 6
    Q4_K = 7
    Q5_K = 8
    Q6_K = 9
    BF16 = 10
    F32 = 11


DENSE_DTYPES = {WeightFormat.BF16: torch.bfloat16, WeightFormat.F32: torch.float32}


class NotFiniteError(Exception):
    """A weight or a scale is NaN or infinite."""
