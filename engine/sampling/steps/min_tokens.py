"""MinTokens: rules out EOS and stop tokens until the output has its minimum length."""

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow


class MinTokens:
    def __init__(self, sampling: SamplingParams, eos_token_ids: list[int]) -> None:
        self._min_tokens = sampling.min_tokens
        self._banned = [*sampling.stop_token_ids, *([] if sampling.ignore_eos else eos_token_ids)]

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        if row.num_output >= self._min_tokens or not self._banned:
            return False
        logits[self._banned] = -torch.inf
        return True
