"""Anchor: holds the decoder to what its base would say after the tokens of replayed answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.command_io.finetuning.items import TrainingItem
from engine.finetuning.loss.rows import TrainedRows, compute_rows
from models.decoder import Decoder
from models.training.divergence import divergence
from models.training.head_logits import head_rows
from models.training.lora import Lora

_FIRST = 4  # tokens of an answer, which decide where it goes


@dataclass(frozen=True, slots=True)
class AnchorWeights:
    """Of mean divergences, beside the mean loss of what is learned. mean: of all tokens. first: of the first tokens of
    each answer, beside that: an answer that begins as the base's mostly goes on as the base's."""

    mean: float
    first: float


class Anchor:
    """A replayed answer's loss is the divergence of all next-token distributions from the base's, rather than the
    negative log probability of the answer: the base itself has none of the former, so nothing pulls away from it, and
    each token tells of the whole vocabulary."""

    def __init__(self, decoder: Decoder, lora: Lora, weights: AnchorWeights) -> None:
        self._weights = weights
        self._decoder = decoder
        self._lora = lora
        self._base_rows: dict[int, torch.Tensor] = {}  # by the item's identity: [trained tokens, in], before the head
        self._items: list[TrainingItem] = []  # keeps them, and so their identities, alive

    def remember(self, items: Sequence[TrainingItem]) -> None:
        """Take what the base, without any adapter, says of them as their references: 2 bytes for each number of a
        hidden state, of each token."""
        self._items += items
        for item in items:
            self._base_rows[id(item)] = base_rows(self._decoder, self._lora, [item])

    def loss(
        self, items: Sequence[TrainingItem], rows: TrainedRows, together: Sequence[TrainingItem]
    ) -> tuple[torch.Tensor, float]:
        """What remembered items add to the loss of `together`, all that a step replays, and the sum of their tokens'
        divergences, in nats. rows: theirs."""
        found = self._divergences(items, rows)
        is_first = torch.cat([torch.arange(item.num_trained) < _FIRST for item in items])
        num_tokens = sum(item.num_trained for item in together)
        num_first = sum(min(item.num_trained, _FIRST) for item in together)
        mean, mean_of_first = found.sum() / num_tokens, found[is_first].sum() / num_first
        return self._weights.mean * mean + self._weights.first * mean_of_first, float(found.detach().sum())

    @torch.no_grad()
    def measure(self, items: Sequence[TrainingItem]) -> float:
        """The mean divergence of a token of remembered items, in nats."""
        total = sum(float(self._divergences([item], compute_rows(self._decoder, [item])).sum()) for item in items)
        return total / sum(item.num_trained for item in items)

    def _divergences(self, items: Sequence[TrainingItem], rows: TrainedRows) -> torch.Tensor:
        """[L] of the trained tokens, in nats, with a gradient where one is wanted."""
        base_rows = torch.cat([self._base_rows[id(item)] for item in items])
        return divergence(self._decoder, rows.hidden, base_rows)


def base_rows(decoder: Decoder, lora: Lora, items: Sequence[TrainingItem]) -> torch.Tensor:
    """What the output layer multiplies when the base, without any adapter, computes the trained tokens: [L, in]."""
    # Not under no_grad, where layers without an adapter compute as in serving, which rounds in other places.
    is_adapted, lora.is_adapted = lora.is_adapted, False
    try:
        return head_rows(decoder, compute_rows(decoder, items).hidden)
    finally:
        lora.is_adapted = is_adapted
