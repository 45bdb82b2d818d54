"""PolicyObjective: the policy-gradient loss of a step's answers; minimizing it maximizes the mean reward."""

from collections.abc import Mapping, Sequence

import torch

from engine.command_io.finetuning.items import TrainingItem
from engine.finetuning.loss.anchor import base_rows
from engine.finetuning.loss.rows import TrainedRows
from models.decoder import Decoder
from models.training.divergence import divergence
from models.training.log_probs import token_log_probs
from models.training.lora import Lora


class PolicyObjective:
    """The policy-gradient loss per token: -advantage * log probability + `kl_weight` * KL divergence from the base
    model.

    Every step makes one update on answers sampled from the current adapter, so GRPO's importance ratio is 1 and needs
    no clipping. Every token of a step has the same weight (Yu et al. 2025). The divergence is computed over the full
    vocabulary; its gradient is the expected gradient of GRPO's single-sample estimate.
    """

    def __init__(
        self, decoder: Decoder, lora: Lora, advantages: Mapping[int, float], num_tokens: int, kl_weight: float
    ) -> None:
        """advantages: each item's advantage, by id(item). num_tokens: tokens in all answers of the step, also in those
        without an advantage."""
        self._decoder = decoder
        self._lora = lora
        self._advantages = advantages
        self._num_tokens = num_tokens
        self._kl_weight = kl_weight
        self._divergence = 0.0
        self._num_compared = 0

    @property
    def kl(self) -> float | None:
        """Mean KL divergence per token so far, in nats; None if none was computed, as with `kl_weight` 0."""
        return self._divergence / self._num_compared if self._num_compared else None

    def count(self, items: Sequence[TrainingItem]) -> int:  # noqa: ARG002
        return self._num_tokens

    def losses(self, items: Sequence[TrainingItem], rows: TrainedRows) -> tuple[torch.Tensor, int]:
        found = token_log_probs(self._decoder, rows.hidden, rows.targets)
        sizes = torch.tensor([item.num_trained for item in items])
        factors = torch.tensor([self._advantages[id(item)] for item in items]).repeat_interleave(sizes)
        loss = -(factors * found.log_probs).sum()
        if self._kl_weight:
            far = divergence(self._decoder, rows.hidden, base_rows(self._decoder, self._lora, items)).sum()
            self._divergence += float(far.detach())
            self._num_compared += len(factors)
            loss = loss + self._kl_weight * far
        return loss, int(found.is_likeliest.sum())
