"""RecordedLayers: steps of few rows replayed from tapes of native calls, so that Python's time does not add up."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from models.batch import ForwardBatch, GroupBatch, KVGroupBatch, StateGroupBatch
from models.decoder import Decoder
from models.kernels.cpu.library import KernelLibrary, kernel_library
from models.kernels.tape import Tape, Workspace, record
from models.kv_groups import LayerGroup
from models.layers.rotation import Rotation
from models.loaded import LoadedModel
from models.recurrence.state import LayerCache

logger = logging.getLogger(__name__)

MAX_ROWS = 32  # from here on the kernels' own time makes the rest small


class _Inputs(NamedTuple):
    """What steps of one size are computed from: views of the input buffers, made once. `batch`: its lengths on the
    host are of the step that was recorded."""

    x: torch.Tensor
    rotations: list[Rotation]
    batch: ForwardBatch

    def take(self, x: torch.Tensor, rotations: Sequence[Rotation], batch: ForwardBatch) -> None:
        """Copy a step's inputs into the buffers."""
        self.x.copy_(x)
        for buffers, by in zip(self.rotations, rotations, strict=True):
            for buffer, of in zip(buffers, by, strict=True):
                if buffer is not None:
                    buffer.copy_(of)
        self.batch.cu_seqlens_q.copy_(batch.cu_seqlens_q)
        self.batch.seq_lens.copy_(batch.seq_lens)
        for addresses, group in zip(self.batch.groups, batch.groups, strict=True):
            _copy(group, addresses)


class RecordedLayers:
    """The decoder's layers, with one tape for each (rows, sequences) that a step had, unless such steps have none.

    All tapes share their input buffers, into which a step's inputs are copied, and their workspace: a result is valid
    until the next call.
    """

    def __init__(self, decoder: Decoder, kv: Sequence[LayerCache], library: KernelLibrary, *, max_blocks: int) -> None:
        """kv: the tensors that every step uses. max_blocks: widest block table."""
        self._decoder = decoder
        self._kv = kv
        self._replay = library.replay
        self._tapes: dict[tuple[int, int], Tape | None] = {}  # None: was tried, and cannot be recorded
        self._inputs: dict[tuple[int, int], _Inputs] = {}
        self._workspace = Workspace()
        self.has_recorded = False  # in the last call
        self._x = torch.empty(MAX_ROWS, decoder.spec.hidden_size, dtype=decoder.residual_dtype)
        self._rotations = [
            Rotation(
                torch.empty(MAX_ROWS, len(frequencies)),
                torch.empty(MAX_ROWS, len(frequencies)),
                None if temperature is None else torch.empty(MAX_ROWS),
            )
            for frequencies, (_, temperature) in zip(decoder.frequencies, decoder.turns, strict=True)
        ]
        self._cu_seqlens_q = torch.empty(MAX_ROWS + 1, dtype=torch.int32)
        self._seq_lens = torch.empty(MAX_ROWS, dtype=torch.int32)
        self._groups = [_buffers(group, max_blocks) for group in decoder.layer_groups]

    @property
    def recorded_sizes(self) -> list[tuple[int, int]]:
        """(rows, sequences) of the steps that have a tape."""
        return [size for size, tape in self._tapes.items() if tape is not None]

    def __call__(self, batch: ForwardBatch, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Decoder.forward. Steps that are too large or cannot be recorded run as ever, and so do those with open rows,
        for which layers make tensors that outlive the step."""
        decoder = self._decoder
        x, rotations = decoder.embedded(batch), decoder.rotations(batch)
        key = (len(x), len(batch.query_lens))
        self.has_recorded = False
        is_new = key not in self._tapes
        tape = self._tapes.get(key)
        if key[0] > MAX_ROWS or (tape is None and not is_new) or _has_open_rows(batch):
            return decoder.run_layers(x, rotations, batch, self._kv, wanted)
        if is_new:
            self._inputs[key] = self._views(*key, batch)
        inputs = self._inputs[key]
        inputs.take(x, rotations, batch)
        if tape is not None:
            tape.replay()
        else:
            self._record(key, inputs)
        return inputs.x if wanted is None or len(wanted) == key[0] else inputs.x[wanted]

    def _record(self, key: tuple[int, int], inputs: _Inputs) -> None:
        """Run the step, and keep its tape if it has one."""
        self.has_recorded = True
        tape, spoilt_by = record(lambda: self._run_in_place(*inputs), self._workspace, self._replay)
        if tape is None and None not in self._tapes.values():
            logger.info("steps of %d rows run without a tape: %s computes between native kernels", key[0], spoilt_by)
        self._tapes[key] = tape

    def _run_in_place(self, x: torch.Tensor, rotations: Sequence[Rotation], batch: ForwardBatch) -> None:
        hidden = self._decoder.run_layers(x, rotations, batch, self._kv)
        if (
            hidden.data_ptr() != x.data_ptr()
        ):  # a layer without a kernel made a new tensor; this copy spoils the tape too
            x.copy_(hidden)

    def _views(self, rows: int, sequences: int, batch: ForwardBatch) -> _Inputs:
        """Of the first rows of the buffers, for steps like that of `batch`."""
        groups = zip(batch.groups, self._groups, strict=True)
        own_batch = dataclasses.replace(
            batch,
            cu_seqlens_q=self._cu_seqlens_q[: sequences + 1],
            seq_lens=self._seq_lens[:sequences],
            groups=tuple(_group_views(group, buffers, rows, sequences) for group, buffers in groups),
        )
        rotations = [
            Rotation(*(None if buffer is None else buffer[:rows] for buffer in buffers)) for buffers in self._rotations
        ]
        return _Inputs(self._x[:rows], rotations, own_batch)


def recorded_layers(model: LoadedModel, kv: Sequence[LayerCache], block_size: int) -> RecordedLayers | None:
    """None where steps are not made of native calls: on other devices, and in transformers' code."""
    if model.device.type != "cpu" or not isinstance(model.decoder, Decoder):
        return None
    library = kernel_library()
    max_blocks = -(-model.max_position // block_size)  # not of the cache: what a window passed stays in the table
    return None if library is None else RecordedLayers(model.decoder, kv, library, max_blocks=max_blocks)


def _has_open_rows(batch: ForwardBatch) -> bool:
    return any(isinstance(group, StateGroupBatch) and group.open_rows is not None for group in batch.groups)


def _buffers(group: LayerGroup, max_blocks: int) -> GroupBatch:
    """For the addresses of MAX_ROWS rows of as many sequences."""
    if group.is_state:
        return StateGroupBatch(
            sources=torch.empty(MAX_ROWS, dtype=torch.int32),
            targets=torch.empty(MAX_ROWS, dtype=torch.int32),
            cu_seqlens=torch.empty(MAX_ROWS + 1, dtype=torch.int32),
            open_rows=None,
            query_lens=(),
            source_blocks=(),
            target_blocks=(),
        )
    return KVGroupBatch(
        slot_mapping=torch.empty(MAX_ROWS, dtype=torch.int64),
        block_tables=torch.empty(MAX_ROWS, max_blocks, dtype=torch.int32),
    )


def _group_views(group: GroupBatch, buffers: GroupBatch, rows: int, sequences: int) -> GroupBatch:
    """Of the first rows of the buffers, for groups like `group`."""
    if isinstance(group, StateGroupBatch):
        assert isinstance(buffers, StateGroupBatch)
        return dataclasses.replace(
            group,
            sources=buffers.sources[:sequences],
            targets=buffers.targets[:rows],
            cu_seqlens=buffers.cu_seqlens[: sequences + 1],
        )
    assert isinstance(buffers, KVGroupBatch)
    return KVGroupBatch(buffers.slot_mapping[:rows], buffers.block_tables[:sequences])


def _copy(group: GroupBatch, to: GroupBatch) -> None:
    """Copy the group's addresses into those of `to`."""
    if isinstance(group, StateGroupBatch):
        assert isinstance(to, StateGroupBatch)
        to.sources.copy_(group.sources)
        to.targets.copy_(group.targets)
        to.cu_seqlens.copy_(group.cu_seqlens)
        return
    assert isinstance(to, KVGroupBatch)
    to.slot_mapping.copy_(group.slot_mapping)
    to.block_tables[:, : group.block_tables.shape[1]].copy_(group.block_tables)
