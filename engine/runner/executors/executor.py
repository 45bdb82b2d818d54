"""Executor: the interface for running a batch through a model's layers, and the implementation for any device."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from engine.runner.batch_buffers import BatchBuffers
from models.batch import ForwardBatch
from models.kv.layer import LayerCache
from models.loaded_model import ModelDecoder


class PendingForward(NamedTuple):
    """A forward pass that was launched.

    hidden: final hidden states of the output rows, [L, hidden]. On a device they may not be computed yet: device
    operators may use them, but the host may read them only after `collect`.
    """

    hidden: torch.Tensor
    is_representative: bool = True  # see StepResult


class Executor(Protocol):
    """Runs forward passes of one decoder over one KV cache, in launch order."""

    @property
    def buffers(self) -> BatchBuffers | None:
        """Buffers to build batches in, if the executor needs inputs at fixed addresses; else None. A batch in them is
        valid until the next one is built."""

    @property
    def decode_sizes(self) -> tuple[int, ...]:
        """Rows of decode steps that take longer the first time, in ascending order, for the warm-up."""

    def launch(self, batch: ForwardBatch, output_rows: torch.Tensor | None) -> PendingForward:
        """Launch a pass without waiting. output_rows: rows whose hidden states are returned; None: all."""

    def collect(self, pending: PendingForward) -> torch.Tensor:
        """Wait for a pass and return its hidden states; they are valid until the next launch."""


class EagerExecutor:
    """Runs a decoder operator by operator. On a device, torch's stream keeps the order, so `collect` need not wait."""

    decode_sizes = ()

    def __init__(self, decoder: ModelDecoder, kv: Sequence[LayerCache], buffers: BatchBuffers | None = None) -> None:
        self._decoder = decoder
        self._kv = kv
        self.buffers = buffers

    def launch(self, batch: ForwardBatch, output_rows: torch.Tensor | None) -> PendingForward:
        return PendingForward(self._decoder(batch, self._kv, output_rows))

    def collect(self, pending: PendingForward) -> torch.Tensor:
        return pending.hidden
