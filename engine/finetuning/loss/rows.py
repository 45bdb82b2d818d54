"""TrainedRows: the hidden states that predict the trained tokens of some items."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.command_io.finetuning.items import TrainingItem
from engine.finetuning.loss.layout import lay_out
from models.decoder import Decoder
from models.training.batch import pack, shares_prefixes, training_caches


class TrainedRows(NamedTuple):
    """Hidden states and target ids of the trained tokens, one row per token, passage after passage."""

    hidden: torch.Tensor  # [L, hidden], the final hidden state that predicts the token
    targets: torch.Tensor  # [L] int64, the token to predict

    def split(self, num_first: int) -> tuple["TrainedRows", "TrainedRows"]:
        first = TrainedRows(self.hidden[:num_first], self.targets[:num_first])
        return first, TrainedRows(self.hidden[num_first:], self.targets[num_first:])


def compute_rows(decoder: Decoder, items: Sequence[TrainingItem]) -> TrainedRows:
    """Run all passages of the items through the decoder in one forward pass. A shared prompt is computed once."""
    passages = [passage for item in items for passage in item.passages]
    layout = lay_out(passages, shares=shares_prefixes(decoder))
    targets = [token for passage in passages for first, last in passage.trained for token in passage.ids[first:last]]
    output_rows = torch.tensor(layout.rows)
    batch = pack(layout.sequences, decoder, output_rows, layout.prefixes)
    hidden = decoder(batch, training_caches(decoder, layout.prefixes), output_rows)
    return TrainedRows(hidden, torch.tensor(targets))
