"""RelativeBias: adds a learned bias to attention scores by the distance of query and key, in buckets of distances."""

import math

import torch
from torch import nn

from models.architecture.positions import RelativeBiasSpec
from models.batch import DistanceBias
from models.linear.linear import empty_parameter


class RelativeBias(nn.Module):
    """The learned bias of attention scores for each bucket of distances and each head. weight: [buckets, H] fp32."""

    weight: torch.Tensor

    def __init__(self, spec: RelativeBiasSpec, num_heads: int, max_position: int) -> None:
        super().__init__()
        self.weight = empty_parameter((spec.num_buckets, num_heads), torch.float32)
        self._spec = spec
        self._reach = max_position - 1
        self._bias: DistanceBias | None = None

    def by_distance(self) -> DistanceBias:
        """Return the biases by distance, for texts of any supported length. The weight must be loaded."""
        if self._bias is None:
            distances = torch.arange(-self._reach, self._reach + 1)
            numbers = self.weight[buckets(distances, self._spec).to(self.weight.device)].T  # [H, distances]
            margins = (DistanceBias.MARGIN, DistanceBias.MARGIN)
            self._bias = DistanceBias(nn.functional.pad(numbers, margins).contiguous(), self._reach)
        return self._bias


def buckets(distances: torch.Tensor, spec: RelativeBiasSpec) -> torch.Tensor:
    """Return the bucket of each distance (key position minus query position): int64.

    Keys up to the query have the first half of the buckets, later keys the second. In each half, small distances have a
    bucket each, and the buckets of larger distances widen with the logarithm of the distance.
    """
    half = spec.num_buckets // 2
    num_single = half // 2
    far = distances.abs()
    ratio = torch.log(far.clamp(min=1).to(torch.float32) / num_single) / math.log(spec.max_distance / num_single)
    wide = (num_single + (ratio * (half - num_single)).long()).clamp(max=half - 1)
    return torch.where(far < num_single, far, wide) + half * (distances > 0)
