"""EagerExecutor: runs a decoder operator by operator, on any device."""

from collections.abc import Sequence

import torch

from engine.runner.executors.executor import PendingForward
from models.batch import ForwardBatch
from models.kv.layer import LayerCache
from models.loaded_model import ModelDecoder


class EagerExecutor:
    """Leaves the order of operators on the device to torch's stream: nothing has to be waited for here."""

    buffers = None

    def __init__(self, decoder: ModelDecoder, kv: Sequence[LayerCache]) -> None:
        self._decoder = decoder
        self._kv = kv

    def launch(self, batch: ForwardBatch, output_rows: torch.Tensor | None) -> PendingForward:
        return PendingForward(self._decoder(batch, self._kv, output_rows))

    def collect(self, pending: PendingForward) -> torch.Tensor:
        return pending.hidden
