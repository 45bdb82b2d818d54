"""ExpertLoad: the rows that a model's experts computed, and how unevenly they are spread lately."""

import torch

from models.decoder import Decoder

_DECAY = 0.99  # a step: a few hundred steps count


class ExpertLoad:
    """Counts of a decoder's experts, which each `take` resets."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._num_experts = torch.tensor(decoder.num_experts, dtype=torch.float64)  # [layers with experts]
        self._recent = torch.zeros(decoder.take_rows_per_expert().shape, dtype=torch.float64)

    def take(self) -> tuple[list[int], float | None]:
        """Rows of each expert since the last call, summed over layers; and the busiest expert's share of a layer's
        recent rows over the mean one's, on average over layers: 1 is even."""
        if not self._decoder.num_experts:
            return [], None
        rows = self._decoder.take_rows_per_expert()
        self._recent.mul_(_DECAY).add_(rows)
        busiest, all_of_layer = self._recent.amax(dim=1), self._recent.sum(dim=1)
        imbalance = (busiest * self._num_experts / all_of_layer).mean().item()
        return rows.sum(dim=0).tolist(), imbalance

    def reset(self) -> None:
        """Set all counts to 0, as after warm-up."""
        self._decoder.take_rows_per_expert()
        self._recent.zero_()
