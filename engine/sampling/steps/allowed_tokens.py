"""AllowedTokens: rows in which all tokens but those in `allowed_token_ids` are ruled out."""

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow


class AllowedTokens:
    """Holds the ids of sequences as tensors, until they are released: they may be most of the vocabulary."""

    def __init__(self) -> None:
        self._ids: dict[str, torch.Tensor] = {}

    def is_used(self, sampling: SamplingParams) -> bool:
        return sampling.allowed_token_ids is not None

    def release(self, sequence_id: str) -> None:
        self._ids.pop(sequence_id, None)

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        ids = self._ids.get(row.sequence_id)
        if ids is None:
            ids = torch.tensor(row.sampling.allowed_token_ids, device=logits.device)
            self._ids[row.sequence_id] = ids
        allowed = logits[ids]
        logits.fill_(-torch.inf)
        logits[ids] = allowed
        return True
