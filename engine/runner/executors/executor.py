"""Executor: the interface of what computes a batch on a model's layers, and the one for any device."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from engine.runner.batch_buffers import BatchBuffers
from models.batch import ForwardBatch
from models.kv.layer import LayerCache
from models.loaded_model import ModelDecoder


class PendingForward(NamedTuple):
    """A forward pass that was launched.

    hidden: states of the output rows after the last layer, [L, hidden]. On a device they may still be computed:
    operators on them queue behind the pass, and the host may read them after `collect`.
    """

    hidden: torch.Tensor
    is_representative: bool = True  # see StepResult


class Executor(Protocol):
    """Runs forward passes of one decoder over one KV cache, in the order in which they are launched."""

    @property
    def buffers(self) -> BatchBuffers | None:
        """Where batches are built, if the executor needs their numbers at known addresses. A batch in them is valid
        until the next one is built."""

    def launch(self, batch: ForwardBatch, output_rows: torch.Tensor | None) -> PendingForward:
        """Start a pass, without waiting for the device. output_rows: the rows whose states are needed; None: all."""

    def collect(self, pending: PendingForward) -> torch.Tensor:
        """Wait for a pass and return its hidden states, which are valid until the next pass is launched."""


class EagerExecutor:
    """Runs a decoder operator by operator. The order of operators on the device is left to torch's stream: nothing has
    to be waited for here."""

    buffers = None

    def __init__(self, decoder: ModelDecoder, kv: Sequence[LayerCache]) -> None:
        self._decoder = decoder
        self._kv = kv

    def launch(self, batch: ForwardBatch, output_rows: torch.Tensor | None) -> PendingForward:
        return PendingForward(self._decoder(batch, self._kv, output_rows))

    def collect(self, pending: PendingForward) -> torch.Tensor:
        return pending.hidden
