"""LogitBias: adds a request's biases to the logits of single tokens."""

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow


class LogitBias:
    def is_used(self, sampling: SamplingParams) -> bool:
        return bool(sampling.logit_bias)

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        bias = row.sampling.logit_bias
        ids = torch.tensor(list(bias), device=logits.device)
        logits[ids] += torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
        return True

    def release(self, sequence_id: str) -> None:
        pass
