"""LogitBias: adds the request's `logit_bias` to the logits."""

from collections import abc

import torch

from engine.sampling.rows import LogitsRow


class LogitBias:
    def __init__(self, bias: abc.Mapping[int, float], device: torch.device) -> None:
        self._ids = torch.tensor(list(bias), device=device)
        self._values = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)

    def apply(self, logits: torch.Tensor, _row: LogitsRow) -> bool:
        logits[self._ids] += self._values
        return True
