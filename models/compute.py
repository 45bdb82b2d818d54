"""ComputeConfig: the attention, operations, dtype and device that a decoder computes with."""

from dataclasses import dataclass

import torch

from models.attention.base import AttentionBackend
from models.kernels.ops import Operations


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """Chosen once for a model, before its decoder is built. dtype: of activations and dense weights."""

    backend: AttentionBackend
    ops: Operations
    dtype: torch.dtype
    device: torch.device
