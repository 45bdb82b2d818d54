"""GraphExecutor: replays decode steps from graphs that were captured on a GPU, without Python between the kernels."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from engine.runner.batch_buffers import BatchShape
from engine.runner.device_buffers import DeviceBuffers, DeviceTables
from engine.runner.executors.executor import EagerExecutor, Executor, PendingForward
from engine.scheduling.kv.groups import KVGroup
from models.batch import ForwardBatch
from models.decoder import Decoder
from models.errors import is_out_of_memory
from models.kv.layer import LayerCache
from models.loaded_model import LoadedModel
from models.system.cuda_graphs import CudaGraphs, Graph

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)  # rows of the captured steps
MAX_ROWS = BUCKETS[-1]


class _Key(NamedTuple):
    """Properties of a step that determine its launches, for a given decoder."""

    rows: int
    has_adapters: bool  # whether any row has an adapter


class GraphExecutor:
    """An Executor that captures a graph for each of `BUCKETS` when a step first needs it, and one more for steps in
    which a row has an adapter. A step with one row a sequence replays the smallest bucket that has room for it; the
    rest are rows of padding.

    Other steps run operator by operator: those with more rows, or with several rows of a sequence. All graphs read the
    same buffers and share a pool of memory, so that the hidden states are valid until the next launch.
    """

    decode_sizes = BUCKETS

    def __init__(self, decoder: Decoder, kv: Sequence[LayerCache], buffers: DeviceBuffers, graphs: CudaGraphs) -> None:
        self._decoder = decoder
        self._kv = kv
        self._captures = graphs
        self._graphs: dict[_Key, Graph | None] = {}  # None: cannot be captured
        self._adapters_version = decoder.adapters_version
        self.buffers = buffers

    def launch(self, batch: ForwardBatch, output_rows: torch.Tensor | None) -> PendingForward:
        num_rows = len(batch.token_ids)
        is_decode = num_rows == len(batch.query_lens)
        bucket = next((size for size in BUCKETS if size >= num_rows), None)
        if bucket is None or not is_decode or not self.buffers.contains(batch):
            return PendingForward(self._decoder(batch, self._kv, output_rows))
        key = _Key(bucket, batch.adapter_slots is not None)
        if key.has_adapters:
            self._drop_invalid()
        if is_new := key not in self._graphs:
            self._graphs[key] = self._captured(key)
        graph = self._graphs[key]
        if graph is None:
            return PendingForward(self._decoder(batch, self._kv, output_rows), is_representative=not is_new)
        graph.replay()
        hidden = graph.result[:num_rows]
        if output_rows is not None and len(output_rows) < num_rows:
            hidden = hidden[output_rows]
        return PendingForward(hidden, is_representative=not is_new)

    def collect(self, pending: PendingForward) -> torch.Tensor:
        return pending.hidden

    def _drop_invalid(self) -> None:
        """Drop graphs with adapters if slots have changed in a way that needs other calls or other memory."""
        if self._adapters_version != self._decoder.adapters_version:
            self._adapters_version = self._decoder.adapters_version
            self._graphs = {key: graph for key, graph in self._graphs.items() if not key.has_adapters}

    def padded_batch(self, bucket: int, *, has_adapters: bool = False) -> ForwardBatch:
        """Return the step that is in the buffers, with padding up to `bucket` rows. The host does not know the lengths
        of its contexts, which change before the graph is replayed."""
        tensors = self.buffers.views(BatchShape(bucket, bucket, bucket, width=0))
        return ForwardBatch(
            token_ids=tensors.token_ids,
            positions=tensors.positions,
            cu_seqlens_q=tensors.cu_seqlens_q,
            seq_lens=tensors.seq_lens,
            groups=tuple(tensors.groups),
            logit_rows=tensors.logit_rows,
            query_lens=(1,) * bucket,
            context_lens=(),
            adapter_slots=tensors.adapter_slots if has_adapters else None,
        )

    def _captured(self, key: _Key) -> Graph | None:
        """Compute the step in the buffers while capturing it; return None if the device refuses that."""
        batch = self.padded_batch(key.rows, has_adapters=key.has_adapters)
        try:
            return self._captures.capture(lambda: self._decoder(batch, self._kv, None))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            logger.warning("steps of %d rows are not captured, and take longer: %s", key.rows, error)
            return None


def device_executor(
    model: LoadedModel, kv: Sequence[LayerCache], groups: tuple[KVGroup, ...], graphs: CudaGraphs
) -> Executor:
    """Create the executor of a model on a GPU."""
    with_keys = [group for group in groups if not group.is_state]
    smallest = min((group.block_size for group in with_keys), default=model.max_position)
    tables = DeviceTables(with_keys, MAX_ROWS, -(-model.max_position // smallest), model.device)
    buffers = DeviceBuffers(MAX_ROWS, tables, model.device)
    if not isinstance(model.decoder, Decoder) or _refusal(model, groups) is not None:
        return EagerExecutor(model.decoder, kv, buffers)
    return GraphExecutor(model.decoder, kv, buffers, graphs)


def describe_capture(model: LoadedModel, groups: tuple[KVGroup, ...]) -> str:
    """Return the start-up line about captured steps on a GPU."""
    if (reason := _refusal(model, groups)) is not None:
        return f"Steps: none are captured as graphs ({reason})"
    return f"Steps: up to {MAX_ROWS} sequences that generate replay captured graphs"


def _refusal(model: LoadedModel, groups: tuple[KVGroup, ...]) -> str | None:
    """Return why steps of this model cannot be captured; None if they can."""
    if not isinstance(model.decoder, Decoder):
        return "transformers' code computes the model"
    if not model.compute.backend.is_capturable:
        return f"attention by {model.compute.backend.name} reads lengths on the host"
    if any(group.is_state for group in groups):
        return "recurrent layers read lengths on the host"
    if model.decoder.num_experts:
        return "rows of padding would choose experts, and count"
    return None
