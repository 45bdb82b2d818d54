"""TrainedRows: what the decoder computes for the tokens that are learned of some items."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.jobs.finetune.items import TrainingItem
from models.decoder import Decoder
from models.training.batch import pack, training_caches


class TrainedRows(NamedTuple):
    """A row for each trained token, of all passages one after the other."""

    hidden: torch.Tensor  # [L, hidden], from which the token is predicted
    targets: torch.Tensor  # [L] int64, the token

    def split(self, num_first: int) -> tuple["TrainedRows", "TrainedRows"]:
        first = TrainedRows(self.hidden[:num_first], self.targets[:num_first])
        return first, TrainedRows(self.hidden[num_first:], self.targets[num_first:])


def compute_rows(decoder: Decoder, items: Sequence[TrainingItem]) -> TrainedRows:
    """All passages of the items in one forward pass."""
    passages = [passage for item in items for passage in item.passages]
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
    return TrainedRows(decoder(batch, training_caches(decoder), output_rows), torch.tensor(targets))
