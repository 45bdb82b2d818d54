"""RecordedLayers: steps of few rows replayed from tapes of native calls, so that Python's time does not add up."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.runner.batch_buffers import BatchMemory
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, StateGroupBatch
from models.decoder import Decoder
from models.kernels.cpu.library import KernelLibrary, kernel_library
from models.kernels.tape import Tape, Workspace, record
from models.loaded_model import LoadedModel
from models.recurrence.state import LayerCache

logger = logging.getLogger(__name__)

MAX_ROWS = 32  # from here on the kernels' own time makes the rest small


class _Inputs(NamedTuple):
    """What a step is computed from, beside its batch."""

    x: torch.Tensor
    rotary_embeddings: list[RotaryEmbedding]

    def first(self, rows: int) -> "_Inputs":
        """Views of the first rows."""
        rotary_embeddings = [
            RotaryEmbedding(*(None if of is None else of[:rows] for of in rotary)) for rotary in self.rotary_embeddings
        ]
        return _Inputs(self.x[:rows], rotary_embeddings)

    def take(self, x: torch.Tensor, rotary_embeddings: Sequence[RotaryEmbedding]) -> None:
        """Copy a step's inputs here."""
        self.x.copy_(x)
        for own, rotary in zip(self.rotary_embeddings, rotary_embeddings, strict=True):
            for buffer, of in zip(own, rotary, strict=True):
                if buffer is not None:
                    buffer.copy_(of)


class RecordedLayers:
    """The decoder's layers, with one tape for each (rows, sequences) that a step had, unless such steps have none.

    Batches that are built in `memory` can have one. All tapes share that, further input buffers and their workspace: a
    result is valid until the next call.
    """

    def __init__(self, decoder: Decoder, kv: Sequence[LayerCache], library: KernelLibrary, *, max_blocks: int) -> None:
        """kv: the tensors that every step uses. max_blocks: widest block table."""
        self._decoder = decoder
        self._kv = kv
        self._replay = library.replay
        self._tapes: dict[tuple[int, int], Tape | None] = {}  # None: was tried, and cannot be recorded
        self._workspace = Workspace()
        self.recorded_now = False  # in the last call
        num_groups = sum(not group.is_state for group in decoder.layer_groups)
        self.memory = BatchMemory(MAX_ROWS, MAX_ROWS, max_blocks, num_groups)
        x = torch.empty(MAX_ROWS, decoder.spec.hidden_size, dtype=decoder.residual_dtype)
        rotary_embeddings = [
            RotaryEmbedding(
                torch.empty(MAX_ROWS, len(frequencies)),
                torch.empty(MAX_ROWS, len(frequencies)),
                None if temperature is None else torch.empty(MAX_ROWS),
            )
            for frequencies, (_, temperature) in zip(decoder.rotary.frequencies, decoder.rotary.specs, strict=True)
        ]
        self._inputs = [_Inputs(x, rotary_embeddings).first(rows) for rows in range(MAX_ROWS + 1)]  # by rows
        self._states = _state_buffers()

    @property
    def recorded_sizes(self) -> list[tuple[int, int]]:
        """(rows, sequences) of the steps that have a tape."""
        return [size for size, tape in self._tapes.items() if tape is not None]

    def __call__(self, batch: ForwardBatch, output_rows: torch.Tensor | None = None) -> torch.Tensor:
        """Decoder.forward. Steps that are too large or cannot be recorded run as ever, and so do those with open rows,
        for which layers make tensors that outlive the step."""
        key = (len(batch.token_ids), len(batch.query_lens))
        self.recorded_now = False
        is_new = key not in self._tapes
        tape = self._tapes.get(key)
        if (tape is None and not is_new) or not self.memory.holds(batch) or _has_speculative_rows(batch):
            return self._decoder(batch, self._kv, output_rows)
        x, rotary_embeddings = inputs = self._inputs[key[0]]
        inputs.take(self._decoder.embedded(batch), self._decoder.rotary_embeddings(batch))
        batch = self._with_kept_states(batch)
        if tape is not None:
            tape.replay()
        else:
            self._record(key, x, rotary_embeddings, batch)
        return x if output_rows is None or len(output_rows) == key[0] else x[output_rows]

    def _record(
        self, key: tuple[int, int], x: torch.Tensor, rotary_embeddings: Sequence[RotaryEmbedding], batch: ForwardBatch
    ) -> None:
        """Run the step, and keep its tape if it has one."""
        self.recorded_now = True
        tape, unrecordable_op = record(
            lambda: self._run_in_place(x, rotary_embeddings, batch), self._workspace, self._replay
        )
        if tape is None and None not in self._tapes.values():
            logger.debug(
                "steps of %d rows run without a tape: %s computes between native kernels", key[0], unrecordable_op
            )
        self._tapes[key] = tape

    def _run_in_place(self, x: torch.Tensor, rotary_embeddings: Sequence[RotaryEmbedding], batch: ForwardBatch) -> None:
        hidden = self._decoder.run_layers(x, rotary_embeddings, batch, self._kv)
        if (
            hidden.data_ptr() != x.data_ptr()
        ):  # a layer without a kernel made a new tensor; this copy spoils the tape too
            x.copy_(hidden)

    def _with_kept_states(self, batch: ForwardBatch) -> ForwardBatch:
        """The batch with the addresses of its states copied to where tapes find them."""
        if not any(isinstance(group, StateGroupBatch) for group in batch.groups):
            return batch
        groups = tuple(
            _copied(group, self._states) if isinstance(group, StateGroupBatch) else group for group in batch.groups
        )
        return dataclasses.replace(batch, groups=groups)


def recorded_layers(model: LoadedModel, kv: Sequence[LayerCache], block_size: int) -> RecordedLayers | None:
    """None where steps are not made of native calls: on other devices, and in transformers' code."""
    if model.device.type != "cpu" or not isinstance(model.decoder, Decoder):
        return None
    library = kernel_library()
    max_blocks = -(-model.max_position // block_size)  # not of the cache: what a window passed stays in the table
    return None if library is None else RecordedLayers(model.decoder, kv, library, max_blocks=max_blocks)


def _has_speculative_rows(batch: ForwardBatch) -> bool:
    return any(isinstance(group, StateGroupBatch) and group.speculative_rows is not None for group in batch.groups)


def _state_buffers() -> StateGroupBatch:
    """For the addresses of MAX_ROWS rows of as many sequences."""
    return StateGroupBatch(
        sources=torch.empty(MAX_ROWS, dtype=torch.int32),
        targets=torch.empty(MAX_ROWS, dtype=torch.int32),
        cu_seqlens=torch.empty(MAX_ROWS + 1, dtype=torch.int32),
        speculative_rows=None,
        query_lens=(),
        source_blocks=(),
        target_blocks=(),
    )


def _copied(group: StateGroupBatch, to: StateGroupBatch) -> StateGroupBatch:
    """The group with its addresses in the first rows of the buffers."""
    return dataclasses.replace(
        group,
        sources=to.sources[: len(group.sources)].copy_(group.sources),
        targets=to.targets[: len(group.targets)].copy_(group.targets),
        cu_seqlens=to.cu_seqlens[: len(group.cu_seqlens)].copy_(group.cu_seqlens),
    )
