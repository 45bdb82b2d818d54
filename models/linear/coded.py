"""CodedLinearMethod: quantized weights that a GPU multiplies as they are stored."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.gguf.blocks import GGUFRows
from models.errors import CheckpointError
from models.kernels.coded_weight import CodedWeight, are_alike, joined
from models.kernels.formats import WeightFormat
from models.kernels.operands import CodedMatrix
from models.kernels.row_input import Prologue
from models.kernels.torch.linear import LinearOperations
from models.linear.coding import code_blocks, code_quantized
from models.linear.method import LinearLayer, LinearMethod, Rearrange
from models.linear.storage import QuantizedStorage, WeightStorage
from models.quant.activations import round_rows
from models.quant.tensor import ActivationQuantization, QuantTensor

MAX_ROWS = 64  # that are multiplied by codes; for more rows, the weight is dequantized, a part at a time
_TENSORS = ("codes", "scales", "zeros", "permutation")
_PART_ELEMENTS = 1 << 26  # of a weight that are dequantized at a time


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Shards whose rows are multiplied together. inputs: how the input is permuted and rounded, by a matrix without
    rows."""

    weight: CodedWeight
    inputs: QuantTensor | None = None

    def prepare(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the input rows of the codes."""
        if self.inputs is None:
            return rows
        rows = round_rows(rows, self.inputs)
        return rows if self.inputs.permutation is None else rows[:, self.inputs.permutation]


class CodedLinearMethod(LinearMethod):
    """Quantized weights in a layout for a GPU's kernels, which multiply few rows by codes, and dequantize for many."""

    name = "coded"

    def __init__(
        self,
        storages: Mapping[str | None, WeightStorage],
        dtype: torch.dtype,
        device: torch.device,
        operations: LinearOperations,
    ) -> None:
        """storages: each shard's storage, in the order of rows, none refused by `coded_refusal`."""
        self.dtype = self.bias_dtype = dtype
        self._device, self._operations = device, operations
        self._storages = dict(storages)
        self._shards: dict[str | None, _Part] = {}
        self._parts: list[_Part] = []

    def load(
        self,
        layer: LinearLayer,  # noqa: ARG002
        shard: str | None,
        tensor: StoredTensor,
        rearrange: Rearrange,
    ) -> None:
        storage = self._storages[shard]
        if isinstance(storage, WeightFormat):
            assert tensor.read_blocks is not None
            weight = code_blocks(GGUFRows(storage, rearrange(tensor.read_blocks()).to(self._device)))
            floats = (weight.scales, weight.minima, weight.supers, weight.super_minima)
            if not all(bool(part.isfinite().all()) for part in floats if part is not None and part.is_floating_point()):
                raise CheckpointError(
                    f"{tensor.file}: {tensor.name!r} has scales that are not finite; fetch the file again"
                )
            self._shards[shard] = _Part(weight)
            return
        quantized = storage.read(tensor, rearrange)
        moved = {name: value.to(self._device) for name in _TENSORS if (value := getattr(quantized, name)) is not None}
        quantized = dataclasses.replace(quantized, **moved)
        inputs = None
        if quantized.permutation is not None or quantized.activation is not ActivationQuantization.NONE:
            inputs = dataclasses.replace(quantized, codes=quantized.codes[:0], scales=quantized.scales[:0], zeros=None)
        self._shards[shard] = _Part(code_quantized(quantized), inputs)

    def process_after_loading(self, layer: LinearLayer) -> None:
        shards = [self._shards[shard] for shard in self._storages]
        if are_alike([part.weight for part in shards]) and all(_takes_alike(shards[0], part) for part in shards[1:]):
            self._parts = [_Part(joined([part.weight for part in shards]), shards[0].inputs)]
        else:
            self._parts = shards
        self._shards.clear()
        for number, part in enumerate(self._parts):
            _register(layer, number, part.weight)

    def matrix(self, layer: LinearLayer) -> CodedMatrix | None:
        """Return the layer's only matrix; None if it has several, or if rows are permuted or rounded before it."""
        if len(self._parts) != 1 or self._parts[0].inputs is not None:
            return None

        def replace(weight: CodedWeight) -> None:
            self._parts = [_Part(weight)]
            _register(layer, 0, weight)

        return CodedMatrix(self._parts[0].weight, layer.bias, self.dtype, replace)

    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        rows = self._operations.prepare(x, prologue, self.dtype)
        out, first = residual, 0
        if out is None:
            num_outputs = sum(part.weight.rows for part in self._parts)
            out = torch.empty(len(rows), num_outputs, dtype=out_dtype or self.dtype, device=rows.device)
        for part in self._parts:
            count, inputs = part.weight.rows, part.prepare(rows)
            bias = None if layer.bias is None else layer.bias.narrow(0, first, count)
            target = out.narrow(1, first, count)
            if len(rows) <= MAX_ROWS:
                added = None if residual is None else target
                self._operations.multiply_codes(inputs, part.weight, target, bias, added)
            else:
                self._multiply_dequantized(inputs, part.weight, target, bias, is_added=residual is not None)
            first += count
        return out if out_dtype is None else out.to(out_dtype)

    def _multiply_dequantized(
        self, rows: torch.Tensor, weight: CodedWeight, out: torch.Tensor, bias: torch.Tensor | None, *, is_added: bool
    ) -> None:
        step = max(1, _PART_ELEMENTS // weight.columns)
        for first in range(0, weight.rows, step):
            count = min(step, weight.rows - first)
            dense = self._operations.dequantize_codes(weight, self.dtype, first=first, count=count)
            added = None if bias is None else bias.narrow(0, first, count)
            target = out.narrow(1, first, count)
            if is_added:
                self._operations.multiply(rows, dense, added, target, None)
            else:
                target.copy_(self._operations.multiply(rows, dense, added, None, out.dtype))

    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:  # noqa: ARG002
        [part] = self._parts
        return self._dequantized(part, ids, self.dtype)

    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:  # noqa: ARG002
        found, start = [], 0
        for part in self._parts:
            begin, end = max(first, start), min(first + count, start + part.weight.rows)
            if begin < end:
                ids = torch.arange(begin - start, end - start, device=self._device)
                found.append(self._dequantized(part, ids, dtype))
            start += part.weight.rows
        return torch.cat(found)

    def _dequantized(self, part: _Part, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        rows = self._operations.dequantize_codes(part.weight, dtype, ids=ids)
        if part.inputs is None or part.inputs.permutation is None:
            return rows
        return torch.empty_like(rows).index_copy_(1, part.inputs.permutation, rows)

    def format_of(self, shard: str | None) -> str:
        storage = self._storages[shard if shard in self._storages else None]
        return storage.name if isinstance(storage, QuantizedStorage) else storage.name.lower()


def _register(layer: LinearLayer, number: int, weight: CodedWeight) -> None:
    """Make the tensors of a part buffers of the layer."""
    for field in dataclasses.fields(weight):
        if isinstance(value := getattr(weight, field.name), torch.Tensor):
            layer.register_buffer(f"{field.name}_{number}", value, persistent=False)


def _takes_alike(part: _Part, other: _Part) -> bool:
    """Whether the inputs of both are permuted and rounded alike."""
    one, two = part.inputs, other.inputs
    if one is None or two is None:
        return one is two
    if (one.encoding, one.activation, one.input_scale) != (two.encoding, two.activation, two.input_scale):
        return False
    if one.activation is ActivationQuantization.DYNAMIC_PER_GROUP and one.group_size != two.group_size:
        return False
    if one.permutation is None or two.permutation is None:
        return one.permutation is two.permutation
    return torch.equal(one.permutation, two.permutation)
