"""MinTokens: rules out the tokens that would end a sequence before it has its minimum length."""

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow


class MinTokens:
    def __init__(self, eos_token_ids: list[int]) -> None:
        self._eos_token_ids = eos_token_ids

    def is_used(self, sampling: SamplingParams) -> bool:
        return sampling.min_tokens > 0

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        sampling = row.sampling
        banned = [*sampling.stop_token_ids, *([] if sampling.ignore_eos else self._eos_token_ids)]
        if row.num_output >= sampling.min_tokens or not banned:
            return False
        logits[banned] = -torch.inf
        return True

    def release(self, sequence_id: str) -> None:
        pass
