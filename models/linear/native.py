"""NativeLinearMethod: weights in the checkpoint's own format, packed for the CPU kernels that multiply by them."""

from collections.abc import Mapping

import torch

from models.checkpoints.base import StoredTensor
from models.errors import CheckpointError
from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import NativeWeight, pack_weight
from models.kernels.formats import DENSE_DTYPES, NotFiniteError
from models.kernels.row_input import Prologue
from models.linear.method import LinearLayer, LinearMethod, Rearrange, rows_of_shards
from models.linear.storage import QuantizedStorage, WeightStorage
from models.quant.scaled_weight import pack_quantized


class NativeLinearMethod(LinearMethod):
    """Weights of one layer, packed for native kernels; not shared between layers.

    A weight is packed as it is loaded; neither the checkpoint's form nor a dequantized one stays in memory. The packed
    bytes are buffers of the layer, so that torch counts them.
    """

    name = "native"
    bias_dtype = torch.float32

    def __init__(self, storages: Mapping[str | None, WeightStorage], arena: HugePageArena) -> None:
        """storages: each shard's storage, in the order of rows; key None: a layer without shards.

        arena: allocates the packed weights, shared by the model's layers.
        """
        self._arena = arena
        self._storages = dict(storages)
        self.weights: dict[str | None, NativeWeight] = {}  # of each loaded shard
        self.packed: PackedLinear | None = None  # after `process_after_loading`

    def load(self, layer: LinearLayer, shard: str | None, tensor: StoredTensor, rearrange: Rearrange) -> None:
        self._attach_shard(layer, shard, self._pack(layer, shard, tensor, rearrange))

    @property
    def shards(self) -> list[str | None]:
        """The shards' names in the order of rows; [None] for a layer without shards."""
        return list(self._storages)

    def attach(self, layer: LinearLayer, weights: Mapping[str | None, NativeWeight]) -> None:
        """Use weights that are already packed, instead of `load` and `process_after_loading`."""
        for shard in self._storages:
            self._attach_shard(layer, shard, weights[shard])
        self.process_after_loading(layer)

    def _attach_shard(self, layer: LinearLayer, shard: str | None, weight: NativeWeight) -> None:
        layer.register_buffer(f"packed_{shard or 'weight'}", weight.data, persistent=False)
        self.weights[shard] = weight

    def _pack(self, layer: LinearLayer, shard: str | None, tensor: StoredTensor, rearrange: Rearrange) -> NativeWeight:
        storage = self._storages[shard]
        if isinstance(storage, QuantizedStorage):
            return pack_quantized(storage.read(tensor, rearrange), arena=self._arena)
        if (dtype := DENSE_DTYPES.get(storage)) is not None:
            assert tensor.read is not None
            raw = tensor.read(dtype)
        else:
            assert tensor.read_blocks is not None
            raw = tensor.read_blocks()
        rows = layer.rows(shard)[1]
        try:
            return pack_weight(storage, rearrange(raw).contiguous(), rows, layer.in_features, arena=self._arena)
        except NotFiniteError:
            raise CheckpointError(
                f"{tensor.file}: {tensor.name!r} has scales that are not finite; fetch the file again"
            ) from None

    def process_after_loading(self, layer: LinearLayer) -> None:
        biases = None
        if layer.bias is not None:
            biases = [layer.bias.narrow(0, *layer.rows(shard)) for shard in self._storages]
        self.packed = PackedLinear([self.weights[shard] for shard in self._storages], biases)

    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,  # noqa: ARG002
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        assert self.packed is not None, "process_after_loading() comes first"
        return self.packed(x, prepare=prologue.row_input, residual=residual, out=residual, out_dtype=out_dtype)

    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:  # noqa: ARG002
        return self.weights[None].look_up(ids, torch.float32)

    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        parts = rows_of_shards(layer, self._storages, first, count)
        found = [self.weights[shard].look_up(rows, dtype) for shard, rows in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def format_of(self, shard: str | None) -> str:
        storage = self._storages[shard if shard in self._storages else None]
        return storage.name if isinstance(storage, QuantizedStorage) else storage.name.lower()
