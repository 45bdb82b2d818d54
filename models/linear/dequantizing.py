"""DequantizingLinearMethod: quantized weights that torch dequantizes in every call."""

import dataclasses
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from models.checkpoints.base import StoredTensor
from models.checkpoints.gguf.blocks import GGUFRows
from models.errors import CheckpointError
from models.kernels.formats import WeightFormat
from models.kernels.row_input import Prologue
from models.kernels.torch.linear import LinearOperations
from models.linear.dense import DTYPE_NAMES
from models.linear.method import LinearLayer, LinearMethod, Rearrange, rows_of_shards
from models.linear.storage import QuantizedStorage, WeightStorage
from models.quant.activations import round_rows
from models.quant.dequantize import dequantize
from models.quant.tensor import QuantTensor, take_rows

_TENSORS = ("codes", "scales", "zeros", "permutation")


class DequantizingLinearMethod(LinearMethod):
    """Quantized weights of one layer, dequantized by torch in every call: slow, but on any device.

    The tensors are buffers of the layer, so that torch moves and counts them.
    """

    name = "dequantizing"

    def __init__(
        self,
        storages: Mapping[str | None, WeightStorage | None],
        dtype: torch.dtype,
        device: torch.device,
        operations: LinearOperations,
    ) -> None:
        """storages: each shard's storage, in the order of rows. Key None: no shards; value None: a dense weight."""
        self.dtype = self.bias_dtype = dtype
        self._device, self._operations = device, operations
        self._storages = dict(storages)
        self._weights: dict[str | None, QuantTensor | GGUFRows | torch.Tensor] = {}

    def load(self, layer: LinearLayer, shard: str | None, tensor: StoredTensor, rearrange: Rearrange) -> None:
        storage = self._storages[shard]
        if storage is None:
            assert tensor.read is not None
            dense = rearrange(tensor.read(self.dtype)).to(self._device)
            layer.register_buffer(f"dense_{shard or 'weight'}", dense, persistent=False)
            self._weights[shard] = dense
            return
        if isinstance(storage, WeightFormat):
            self._weights[shard] = blocks = self._blocks(storage, tensor, rearrange)
            layer.register_buffer(f"blocks_{shard or 'weight'}", blocks.rows, persistent=False)
            return
        quantized = storage.read(tensor, rearrange)
        tensors = {name: value for name in _TENSORS if (value := getattr(quantized, name)) is not None}
        tensors = {name: value.to(self._device) for name, value in tensors.items()}
        for name, value in tensors.items():
            layer.register_buffer(f"{name}_{shard or 'weight'}", value, persistent=False)
        self._weights[shard] = dataclasses.replace(quantized, **tensors)

    def _blocks(self, block_format: WeightFormat, tensor: StoredTensor, rearrange: Rearrange) -> GGUFRows:
        assert tensor.read_blocks is not None
        blocks = GGUFRows(block_format, rearrange(tensor.read_blocks()).to(self._device))
        if not all(bool(part.dequantize(torch.float32).isfinite().all()) for part in blocks.parts()):
            raise CheckpointError(
                f"{tensor.file}: {tensor.name!r} has scales that are not finite; fetch the file again"
            )
        return blocks

    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        rows = self._operations.prepare(x, prologue, self.dtype)
        y = torch.cat([self._multiply(rows, self._weights[shard]) for shard in self._storages], dim=-1)
        if layer.bias is not None:
            y += layer.bias
        return self._operations.finish(y, residual, out_dtype)

    def _multiply(self, rows: torch.Tensor, weight: QuantTensor | GGUFRows | torch.Tensor) -> torch.Tensor:
        if isinstance(weight, torch.Tensor):
            return F.linear(rows, weight)
        if isinstance(weight, GGUFRows):
            return torch.cat([F.linear(rows, part.dequantize(self.dtype)) for part in weight.parts()], dim=-1)
        return F.linear(round_rows(rows, weight), dequantize(weight, self.dtype))

    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:  # noqa: ARG002
        return self._rows_of(self._weights[None], ids, self.dtype)

    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        parts = rows_of_shards(layer, self._storages, first, count)
        return torch.cat([self._rows_of(self._weights[shard], rows.to(self._device), dtype) for shard, rows in parts])

    def _rows_of(
        self, weight: QuantTensor | GGUFRows | torch.Tensor, ids: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        if isinstance(weight, torch.Tensor):
            return F.embedding(ids, weight).to(dtype)
        if isinstance(weight, GGUFRows):
            return GGUFRows(weight.format, weight.rows[ids]).dequantize(dtype)
        groups = ids // weight.row_group
        rows = dataclasses.replace(
            weight,
            codes=take_rows(weight.codes, ids),
            scales=take_rows(weight.scales, groups),
            zeros=None if weight.zeros is None else weight.zeros[groups],
            row_group=1,
        )
        return dequantize(rows, dtype)

    def format_of(self, shard: str | None) -> str:
        storage = self._storages[shard if shard in self._storages else None]
        if storage is None:
            return DTYPE_NAMES[self.dtype]
        return storage.name if isinstance(storage, QuantizedStorage) else storage.name.lower()
