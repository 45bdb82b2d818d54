"""What is minimized: the loss of a step's items, part by part so that memory stays bounded, and its gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine.jobs.finetune.items import Passage, TrainingItem
from models.decoder import Decoder
from models.training.batch import pack, training_caches
from models.training.log_probs import TokenLogProbs, token_log_probs
from models.training.lora import Lora

_MAX_TOKENS = 1024  # of passages that are computed together


@dataclass(frozen=True, slots=True)
class Score:
    """loss: mean over `count` tokens or pairs. accuracy: the share that greedy decoding would get right, or of pairs
    whose preferred passage gained more."""

    loss: float
    accuracy: float
    count: int


def answer_log_probs(decoder: Decoder, passages: Sequence[Passage]) -> TokenLogProbs:
    """Of all trained tokens of the passages, one after the other."""
    rows: list[int] = []
    targets: list[int] = []
    start = 0
    for passage in passages:
        for first, last in passage.trained:
            rows += range(start + first - 1, start + last - 1)
            targets += passage.ids[first:last]
        start += len(passage.ids)
    output_rows = torch.tensor(rows)
    batch = pack([passage.ids for passage in passages], decoder, output_rows)
    hidden = decoder(batch, training_caches(decoder), output_rows)
    return token_log_probs(decoder, hidden, torch.tensor(targets))


def parts(items: Sequence[TrainingItem]) -> list[list[TrainingItem]]:
    """Items in order, as many together as `_MAX_TOKENS` allows; at least one."""
    found: list[list[TrainingItem]] = []
    size = 0
    for item in items:
        if not found or size + item.num_tokens > _MAX_TOKENS:
            found.append([])
            size = 0
        found[-1].append(item)
        size += item.num_tokens
    return found


class TokenObjective:
    """The mean negative log probability of all trained tokens (supervised, pretraining)."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def weight(self, item: TrainingItem) -> int:
        """What the item counts in a mean."""
        return item.passages[0].num_trained

    def losses(self, items: Sequence[TrainingItem]) -> tuple[torch.Tensor, int]:
        """The sum of their losses, with a gradient where one is wanted, and how many were right."""
        found = answer_log_probs(self._decoder, [item.passages[0] for item in items])
        return -found.log_probs.sum(), int(found.is_likeliest.sum())


class PreferenceObjective:
    """DPO's loss of a pair: -log sigmoid(beta * (gain of the preferred passage - gain of the other)), where a gain is
    the log probability of a passage relative to what it was before training."""

    def __init__(self, decoder: Decoder, beta: float) -> None:
        self._decoder = decoder
        self._beta = beta
        self._references: dict[int, torch.Tensor] = {}  # by the item's identity: [2]
        self._items: list[TrainingItem] = []  # keeps them, and so their identities, alive

    def weight(self, item: TrainingItem) -> int:  # noqa: ARG002
        return 1

    @torch.no_grad()
    def remember(self, items: Sequence[TrainingItem]) -> None:
        """Take what the decoder says of them now as their references."""
        self._items += items
        for part in parts(items):
            for item, log_probs in zip(part, self._log_probs(part), strict=True):
                self._references[id(item)] = log_probs

    def losses(self, items: Sequence[TrainingItem]) -> tuple[torch.Tensor, int]:
        margins = self.margins(items)
        return -F.logsigmoid(margins).sum(), int((margins > 0).sum())

    def margins(self, items: Sequence[TrainingItem]) -> torch.Tensor:
        """beta * difference of the gains, of each pair."""
        references = torch.stack([self._references[id(item)] for item in items])
        gains = self._log_probs(items) - references
        return self._beta * (gains[:, 0] - gains[:, 1])

    def _log_probs(self, items: Sequence[TrainingItem]) -> torch.Tensor:
        """Sums over the passages' trained tokens: [items, 2]."""
        passages = [passage for item in items for passage in item.passages]
        sizes = [passage.num_trained for passage in passages]
        found = answer_log_probs(self._decoder, passages).log_probs.split(sizes)
        return torch.stack([each.sum() for each in found]).view(-1, 2)


Objective = TokenObjective | PreferenceObjective


def add_gradients(objective: Objective, items: Sequence[TrainingItem], lora: Lora) -> Score:
    """Fill `lora.gradients` with those of the mean loss of a step's items."""
    lora.gradients.zero_()
    count = sum(map(objective.weight, items))
    total, right = 0.0, 0
    for part in parts(items):
        loss, num_right = objective.losses(part)
        (loss / count).backward()
        total += float(loss.detach())
        right += num_right
    return Score(total / count, right / count, count)


@torch.no_grad()
def evaluate(objective: Objective, items: Sequence[TrainingItem]) -> Score:
    count = sum(map(objective.weight, items))
    total, right = 0.0, 0
    for part in parts(items):
        loss, num_right = objective.losses(part)
        total += float(loss)
        right += num_right
    return Score(total / count, right / count, count)
