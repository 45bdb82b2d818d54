"""PolicyObjective: the loss of a step's answers, whose gradient is minus the gradient of the mean reward."""

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
    """The loss of each token: minus its answer's advantage times its log probability, plus, times `kl_weight`, the
    divergence of the distribution that it was drawn from, from the base's.

    The answers are always the current adapter's, and a step makes one update: so GRPO's ratio to the probabilities at
    the time of drawing is 1, and is not clipped. Every token of a step counts the same (Yu et al. 2025). The divergence
    is over all next tokens; its gradient is the expected gradient of GRPO's estimate by the drawn token.
    """

    def __init__(
        self, decoder: Decoder, lora: Lora, advantages: Mapping[int, float], num_tokens: int, kl_weight: float
    ) -> None:
        """advantages: by the item's identity. num_tokens: of all answers of the step, learned from or not."""
        self._decoder = decoder
        self._lora = lora
        self._advantages = advantages
        self._num_tokens = num_tokens
        self._kl_weight = kl_weight
        self._divergence = 0.0
        self._num_compared = 0

    @property
    def kl(self) -> float | None:
        """The mean divergence of the tokens in losses so far, in nats; None if it has no weight."""
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
