"""RecordedExecutor: replays small steps from recorded tapes of native calls, without Python between the calls."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.runner.batch_buffers import BatchBuffers
from engine.runner.block_tables import BlockTables
from engine.runner.executors.executor import PendingForward
from engine.scheduling.kv.groups import KVGroup
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, StateGroupBatch
from models.decoder import Decoder
from models.kernels.cpu.library import KernelLibrary, kernel_library
from models.kernels.cpu.tape import Tape, Workspace, record
from models.kv.layer import LayerCache
from models.loaded_model import LoadedModel
from models.system.memory import is_host

logger = logging.getLogger(__name__)

MAX_ROWS = 32  # with more rows, Python's time is small beside the kernels'


class _Inputs(NamedTuple):
    """Input tensors of a step, in addition to the batch: embedded tokens, rotary tables, and the layers' inputs."""

    x: torch.Tensor
    rotary_embeddings: list[RotaryEmbedding]
    layer_inputs: torch.Tensor | None

    def first(self, num_rows: int) -> "_Inputs":
        rotary_embeddings = [
            RotaryEmbedding(*(None if part is None else part[:num_rows] for part in rotary))
            for rotary in self.rotary_embeddings
        ]
        layer_inputs = None if self.layer_inputs is None else self.layer_inputs[:num_rows]
        return _Inputs(self.x[:num_rows], rotary_embeddings, layer_inputs)

    def copy_from(self, decoder: Decoder, batch: ForwardBatch) -> None:
        """Copy what the decoder computes before its layers run."""
        embedded, rotary_embeddings = decoder.embedded(batch), decoder.rotary_embeddings(batch)
        self.x.copy_(embedded)
        if self.layer_inputs is not None:
            self.layer_inputs.copy_(decoder.with_layer_inputs(batch, embedded).layer_inputs)
        for buffers, rotary in zip(self.rotary_embeddings, rotary_embeddings, strict=True):
            for buffer, part in zip(buffers, rotary, strict=True):
                if buffer is not None:
                    buffer.copy_(part)


class _Key(NamedTuple):
    """Properties of a step that determine its sequence of native calls, for a given decoder."""

    rows: int
    sequences: int
    has_adapters: bool  # whether any row has an adapter
    has_choice: bool  # whether an indexer chooses the positions that rows see


class RecordedExecutor:
    """An Executor that records one tape per _Key, for steps that can be recorded, and replays it.

    Only batches built in `buffers` use tapes. All tapes share these buffers, the input tensors and a workspace, so only
    one step can run at a time; `launch` returns when the step is computed.
    """

    decode_sizes = ()  # a tape is recorded in a step that takes hardly longer

    def __init__(
        self,
        decoder: Decoder,
        kv: Sequence[LayerCache],
        library: KernelLibrary,
        *,
        max_blocks: int,
        groups: Sequence[KVGroup],
    ) -> None:
        """kv: the KV cache of all steps. max_blocks: most entries of a block table. groups: those with keys and
        values."""
        self._decoder = decoder
        self._kv = kv
        self._replay = library.replay
        self._tapes: dict[_Key, Tape | None] = {}  # None: cannot be recorded
        self._adapters_version = decoder.adapters_version
        self._topk = decoder.spec.index_topk
        self._workspace = Workspace()
        self.buffers = BatchBuffers(MAX_ROWS, BlockTables(groups, MAX_ROWS, max_blocks))
        x = torch.empty(MAX_ROWS, decoder.spec.hidden_size, dtype=decoder.residual_dtype)
        rotary_embeddings = [
            RotaryEmbedding(
                torch.empty(MAX_ROWS, len(frequencies)),
                torch.empty(MAX_ROWS, len(frequencies)),
                None if temperature is None else torch.empty(MAX_ROWS),
            )
            for frequencies, (_, temperature) in zip(decoder.rotary.frequencies, decoder.rotary.specs, strict=True)
        ]
        layer_inputs = None
        if (spec := decoder.spec.layer_input) is not None:
            layer_inputs = torch.empty(MAX_ROWS, len(decoder.layers), spec.size, dtype=decoder.compute_dtype)
        self._inputs = [
            _Inputs(x, rotary_embeddings, layer_inputs).first(num_rows) for num_rows in range(MAX_ROWS + 1)
        ]  # by number of rows
        self._state_buffers = _state_buffers()

    @property
    def recorded_sizes(self) -> list[tuple[int, int]]:
        """(rows, sequences) of the steps that have a tape."""
        return [(key.rows, key.sequences) for key, tape in self._tapes.items() if tape is not None]

    def launch(self, batch: ForwardBatch, output_rows: torch.Tensor | None) -> PendingForward:
        """Compute a step, replaying its tape if there is one. Steps that are too large or cannot be recorded run
        without a tape; so do drafts over recurrent layers, since their tensors must outlive the step."""
        has_choice = self._topk is not None and max(batch.context_lens) > self._topk
        key = _Key(len(batch.token_ids), len(batch.query_lens), self._has_adapters(batch), has_choice)
        is_new = key not in self._tapes
        tape = self._tapes.get(key)
        if (tape is None and not is_new) or not self.buffers.contains(batch) or _has_speculative_rows(batch):
            return PendingForward(self._decoder(batch, self._kv, output_rows))
        x, rotary_embeddings, layer_inputs = inputs = self._inputs[key.rows]
        inputs.copy_from(self._decoder, batch)
        batch = dataclasses.replace(self._with_state_buffers(batch), layer_inputs=layer_inputs)
        if tape is not None:
            tape.replay()
        else:
            self._record(key, x, rotary_embeddings, batch)
        hidden = x if output_rows is None or len(output_rows) == key.rows else x[output_rows]
        return PendingForward(hidden, is_representative=not is_new)

    def collect(self, pending: PendingForward) -> torch.Tensor:
        return pending.hidden

    def _has_adapters(self, batch: ForwardBatch) -> bool:
        """Return whether any row has an adapter. Drops tapes with adapters if the adapter kernels have changed."""
        if batch.adapter_slots is None:
            return False
        if self._adapters_version != self._decoder.adapters_version:
            self._adapters_version = self._decoder.adapters_version
            self._tapes = {key: tape for key, tape in self._tapes.items() if not key.has_adapters}
        return True

    def _record(
        self, key: _Key, x: torch.Tensor, rotary_embeddings: Sequence[RotaryEmbedding], batch: ForwardBatch
    ) -> None:
        """Run the step while recording it, and store the tape, or None if the step cannot be recorded."""
        tape, unrecordable_op = record(
            lambda: self._run_in_place(x, rotary_embeddings, batch), self._workspace, self._replay
        )
        if tape is None and None not in self._tapes.values():
            logger.debug(
                "steps of %d rows run without a tape: %s computes between native kernels", key.rows, unrecordable_op
            )
        self._tapes[key] = tape

    def _run_in_place(self, x: torch.Tensor, rotary_embeddings: Sequence[RotaryEmbedding], batch: ForwardBatch) -> None:
        hidden = self._decoder.run_layers(x, rotary_embeddings, batch, self._kv)
        if hidden.data_ptr() != x.data_ptr():
            x.copy_(hidden)  # a layer without a kernel made a new tensor; this copy cannot be recorded either

    def _with_state_buffers(self, batch: ForwardBatch) -> ForwardBatch:
        """Return the batch with its recurrent-state indices copied into the fixed buffers that tapes read."""
        if not any(isinstance(group, StateGroupBatch) for group in batch.groups):
            return batch
        groups = tuple(
            _copied(group, self._state_buffers) if isinstance(group, StateGroupBatch) else group
            for group in batch.groups
        )
        return dataclasses.replace(batch, groups=groups)


def recorded_executor(
    model: LoadedModel, kv: Sequence[LayerCache], groups: tuple[KVGroup, ...]
) -> RecordedExecutor | None:
    """Create a RecordedExecutor; None on devices other than the CPU, or with transformers' model code."""
    if not is_host(model.device) or not isinstance(model.decoder, Decoder):
        return None
    library = kernel_library()
    if library is None:
        return None
    with_keys = [group for group in groups if not group.is_state]
    # Not the blocks of the cache: entries out of the window stay in the table.
    smallest = min((group.block_size for group in with_keys), default=model.max_position)
    max_blocks = -(-model.max_position // smallest)
    return RecordedExecutor(model.decoder, kv, library, max_blocks=max_blocks, groups=with_keys)


def _has_speculative_rows(batch: ForwardBatch) -> bool:
    return any(isinstance(group, StateGroupBatch) and group.speculative_rows is not None for group in batch.groups)


def _state_buffers() -> StateGroupBatch:
    """Allocate buffers for the state indices of up to MAX_ROWS rows."""
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
    """Return the group with its state indices copied into the buffers `to`."""
    return dataclasses.replace(
        group,
        sources=to.sources[: len(group.sources)].copy_(group.sources),
        targets=to.targets[: len(group.targets)].copy_(group.targets),
        cu_seqlens=to.cu_seqlens[: len(group.cu_seqlens)].copy_(group.cu_seqlens),
    )
