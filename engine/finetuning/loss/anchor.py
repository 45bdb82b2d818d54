"""Anchor: penalizes divergence from the base model's next-token distributions, on replayed answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.command_io.finetuning.items import TrainingItem
from engine.finetuning.loss.rows import TrainedRows, compute_rows
from models.decoder import Decoder
from models.training.divergence import divergence
from models.training.head_logits import head_rows
from models.training.lora import Lora

_FIRST = 4  # tokens of an answer, which decide how it continues


@dataclass(frozen=True, slots=True)
class AnchorWeights:
    """Loss weights of two mean divergences. mean: over all tokens of the replayed answers. first: over the first tokens
    of each answer, in addition, since they decide how the answer continues."""

    mean: float
    first: float


class Anchor:
    """The loss on replayed answers: the divergence from the base model's distribution at every token.

    Unlike the answers' negative log probability, the divergence is zero for the base model itself, and each token gives
    a signal over the whole vocabulary.
    """

    def __init__(self, decoder: Decoder, lora: Lora, weights: AnchorWeights) -> None:
        self._weights = weights
        self._decoder = decoder
        self._lora = lora
        self._base_rows: dict[int, torch.Tensor] = {}  # by the item's identity: [trained tokens, in], before the head
        self._items: list[TrainingItem] = []  # keeps them, and so their identities, alive

    def remember(self, items: Sequence[TrainingItem]) -> None:
        """Compute the base model's hidden states on the items, without the adapter, and keep them as references: 2
        bytes per element, for each trained token."""
        self._items += items
        for item in items:
            self._base_rows[id(item)] = base_rows(self._decoder, self._lora, [item])

    def loss(
        self, items: Sequence[TrainingItem], rows: TrainedRows, together: Sequence[TrainingItem]
    ) -> tuple[torch.Tensor, float]:
        """Return the items' contribution to the step's loss, and the sum of their tokens' divergences in nats.

        items: known from `remember`. rows: the hidden states of `items`. together: all items replayed in the step, over
        whose tokens the loss is averaged.
        """
        found = self._divergences(items, rows)
        is_first = torch.cat([torch.arange(item.num_trained) < _FIRST for item in items])
        num_tokens = sum(item.num_trained for item in together)
        num_first = sum(min(item.num_trained, _FIRST) for item in together)
        mean, mean_of_first = found.sum() / num_tokens, found[is_first].sum() / num_first
        return self._weights.mean * mean + self._weights.first * mean_of_first, float(found.detach().sum())

    @torch.no_grad()
    def measure(self, items: Sequence[TrainingItem]) -> float:
        """Return the mean divergence per token, in nats, of items known from `remember`."""
        total = sum(float(self._divergences([item], compute_rows(self._decoder, [item])).sum()) for item in items)
        return total / sum(item.num_trained for item in items)

    def _divergences(self, items: Sequence[TrainingItem], rows: TrainedRows) -> torch.Tensor:
        """Return the divergences of the trained tokens: [L], in nats, with a gradient where gradients are enabled."""
        base_rows = torch.cat([self._base_rows[id(item)] for item in items])
        return divergence(self._decoder, rows.hidden, base_rows)


def base_rows(decoder: Decoder, lora: Lora, items: Sequence[TrainingItem]) -> torch.Tensor:
    """Return the base model's inputs to the output layer at the trained tokens, without the adapter: [L, in]."""
    # Not under no_grad, where layers without an adapter compute as in serving, which rounds in other places.
    is_adapted, lora.is_adapted = lora.is_adapted, False
    try:
        return head_rows(decoder, compute_rows(decoder, items).hidden)
    finally:
        lora.is_adapted = is_adapted
