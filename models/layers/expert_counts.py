"""ExpertCounts: the rows that the experts of a decoder's layers computed."""

from collections.abc import Sequence

import torch

from models.layers.moe import MoE


class ExpertCounts:
    """One tensor backs `rows_per_expert` of all layers, so that one read takes the counts of all."""

    def __init__(self, layers: Sequence[MoE]) -> None:
        self.num_experts = [len(moe.rows_per_expert) for moe in layers]  # of each layer with experts
        self._rows = torch.zeros(len(layers), max(self.num_experts, default=0), dtype=torch.int64)
        for moe, rows, num_experts in zip(layers, self._rows, self.num_experts, strict=True):
            moe.rows_per_expert = rows[:num_experts]

    def take(self) -> torch.Tensor:
        """Counts since the last call: [layers with experts, most experts of one], int64."""
        taken = self._rows.clone()
        self._rows.zero_()
        return taken
