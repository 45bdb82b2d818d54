"""Objectives: the loss of a step's items and its gradients, computed in parts to bound memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from engine.command_io.finetuning.items import TrainingItem
from engine.finetuning.loss.anchor import Anchor
from engine.finetuning.loss.layout import prompt_of
from engine.finetuning.loss.rows import TrainedRows, compute_rows
from models.decoder import Decoder
from models.training.batch import shares_prefixes
from models.training.log_probs import token_log_probs
from models.training.lora import Lora

MAX_TOKENS = 1024  # of passages that are computed together


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of a training step or of a validation file.

    loss: mean over `count` tokens (DPO: pairs). accuracy: share of tokens that greedy decoding gets right (DPO: of
    pairs whose preferred passage gained more). divergence: from the base model on replayed answers, in nats per token.
    """

    loss: float
    accuracy: float
    count: int
    divergence: float | None = None


def bounded_parts(items: Sequence[TrainingItem], decoder: Decoder) -> list[list[TrainingItem]]:
    """Split items, in order, into parts of at most MAX_TOKENS or one item. A prompt shared in a part counts once."""
    shares = shares_prefixes(decoder)
    found: list[list[TrainingItem]] = []
    size = 0
    prompts: set[tuple[int, ...]] = set()
    for item in items:
        new = item.num_tokens
        if shares:
            new -= sum(len(prompt) for passage in item.passages if (prompt := prompt_of(passage)) in prompts)
        if not found or size + new > MAX_TOKENS:
            found.append([])
            size, new = 0, item.num_tokens
            prompts.clear()
        found[-1].append(item)
        size += new
        prompts.update(map(prompt_of, item.passages))
    return found


class Objective(Protocol):
    def count(self, items: Sequence[TrainingItem]) -> int:
        """Return the number of tokens or pairs that the loss of a step is averaged over."""

    def losses(self, items: Sequence[TrainingItem], rows: TrainedRows) -> tuple[torch.Tensor, int]:
        """Return the items' summed loss, and the number of correct tokens or pairs. rows: their hidden states."""


class TokenObjective:
    """The mean negative log probability of all trained tokens (supervised, pretraining)."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def count(self, items: Sequence[TrainingItem]) -> int:
        return sum(item.num_trained for item in items)

    def losses(self, items: Sequence[TrainingItem], rows: TrainedRows) -> tuple[torch.Tensor, int]:
        del items
        found = token_log_probs(self._decoder, rows.hidden, rows.targets)
        return -found.log_probs.sum(), int(found.is_likeliest.sum())


class PreferenceObjective:
    """The DPO loss of preference pairs: -log sigmoid(beta * (gain of the preferred passage - gain of the rejected)).

    A passage's gain is its log probability minus its log probability before training. If `rpo_alpha` is set, the
    preferred passage's mean negative log probability is added, times `rpo_alpha` (Pang et al. 2024): plain DPO lets
    both passages get less likely, as long as the rejected one does so faster.
    """

    def __init__(self, decoder: Decoder, beta: float, rpo_alpha: float) -> None:
        self._decoder = decoder
        self._beta = beta
        self._rpo_alpha = rpo_alpha
        self._references: dict[int, torch.Tensor] = {}  # by the item's identity: [2]
        self._items: list[TrainingItem] = []  # keeps them, and so their identities, alive

    def count(self, items: Sequence[TrainingItem]) -> int:
        return len(items)

    @torch.no_grad()
    def remember(self, items: Sequence[TrainingItem]) -> None:
        """Compute the items' log probabilities under the current weights, and keep them as DPO's references."""
        self._items += items
        for part in bounded_parts(items, self._decoder):
            log_probs = self._log_probs(part, compute_rows(self._decoder, part))
            for item, reference in zip(part, log_probs, strict=True):
                self._references[id(item)] = reference

    def losses(self, items: Sequence[TrainingItem], rows: TrainedRows) -> tuple[torch.Tensor, int]:
        log_probs = self._log_probs(items, rows)
        margins = self._margins(items, log_probs)
        loss = -F.logsigmoid(margins).sum()
        if self._rpo_alpha:
            lengths = torch.tensor([item.passages[0].num_trained for item in items])
            loss = loss - self._rpo_alpha * (log_probs[:, 0] / lengths).sum()
        return loss, int((margins > 0).sum())

    def _margins(self, items: Sequence[TrainingItem], log_probs: torch.Tensor) -> torch.Tensor:
        """Return beta times the difference of the two gains, for each pair: [items]."""
        gains = log_probs - torch.stack([self._references[id(item)] for item in items])
        return self._beta * (gains[:, 0] - gains[:, 1])

    def _log_probs(self, items: Sequence[TrainingItem], rows: TrainedRows) -> torch.Tensor:
        """Return each passage's log probability, summed over its trained tokens: [items, 2]."""
        sizes = [passage.num_trained for item in items for passage in item.passages]
        found = token_log_probs(self._decoder, rows.hidden, rows.targets).log_probs.split(sizes)
        return torch.stack([each.sum() for each in found]).view(-1, 2)


def add_gradients(
    objective: Objective,
    items: Sequence[TrainingItem],
    decoder: Decoder,
    lora: Lora,
    anchor: Anchor | None = None,
    replayed: Sequence[TrainingItem] = (),
) -> StepLoss:
    """Overwrite `lora.gradients` with the gradients of the items' mean loss plus the anchor's loss on `replayed`."""
    lora.gradients.zero_()
    count, num_replayed = objective.count(items), sum(item.num_trained for item in replayed)
    total, right, diverged = 0.0, 0, 0.0
    num_left = len(items)
    for part in bounded_parts([*items, *replayed], decoder):
        own, others = part[:num_left], part[num_left:]
        num_left -= len(own)
        rows = compute_rows(decoder, part)
        own_rows, other_rows = rows.split(sum(item.num_trained for item in own))
        loss = torch.zeros(())
        if own:
            own_loss, num_right = objective.losses(own, own_rows)
            loss = own_loss / count
            total += float(own_loss.detach())
            right += num_right
        if others:
            assert anchor is not None
            anchor_loss, divergence = anchor.loss(others, other_rows, replayed)
            loss = loss + anchor_loss
            diverged += divergence
        loss.backward()
    return StepLoss(total / count, right / count, count, diverged / num_replayed if num_replayed else None)


@torch.no_grad()
def evaluate(objective: Objective, items: Sequence[TrainingItem], decoder: Decoder) -> StepLoss:
    count = objective.count(items)
    total, right = 0.0, 0
    for part in bounded_parts(items, decoder):
        loss, num_right = objective.losses(part, compute_rows(decoder, part))
        total += float(loss)
        right += num_right
    return StepLoss(total / count, right / count, count)
