"""AllowedTokens: rules out all tokens except `allowed_token_ids`."""

from collections import abc

import torch

from engine.sampling.rows import LogitsRow


class AllowedTokens:
    """Masks all tokens except the given ids, which are kept as a tensor since they may be most of the vocabulary."""

    def __init__(self, token_ids: abc.Sequence[int], device: torch.device) -> None:
        self._ids = torch.tensor(token_ids, device=device)

    def apply(self, logits: torch.Tensor, _row: LogitsRow) -> bool:
        allowed = logits[self._ids]
        logits.fill_(-torch.inf)
        logits[self._ids] = allowed
        return True
