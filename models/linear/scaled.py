"""ScaledLinearMethod: 8-bit floating-point weights times rows that are rounded to the same type (torch._scaled_mm)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.checkpoints.base import StoredTensor
from models.kernels.row_input import Prologue
from models.kernels.torch.linear import LinearOperations
from models.linear.method import LinearLayer, LinearMethod, Rearrange
from models.linear.storage import QuantizedStorage, WeightStorage
from models.quant.activations import FP8_MAX
from models.quant.dequantize import scales_fp32
from models.quant.tensor import ActivationQuantization, Encoding, take_rows

_ROUNDED = (ActivationQuantization.DYNAMIC_PER_TOKEN, ActivationQuantization.STATIC)
_LANES = 16  # rows and columns of a weight are a multiple of this


def scaled_fp8_refusal(storage: WeightStorage | None, rows: int, columns: int) -> str | None:
    """Return why rows and a weight of this storage and size are not multiplied in fp8, or None if they can be."""
    if not isinstance(storage, QuantizedStorage) or storage.kind.encoding is not Encoding.FP8_E4M3:
        return "the weight is not in fp8"
    if storage.kind.activation not in _ROUNDED:
        return "rows are not rounded to fp8, or by groups of columns"
    if storage.kind.group_size < columns:
        return "scales are not of whole rows"
    if rows % _LANES or columns % _LANES:
        return f"{rows} rows and {columns} columns are not multiples of {_LANES}"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of a weight that take the same input. codes: [rows, columns]. scales: [rows] fp32. input_scale: of the input
    rows, or None for a scale by the largest number of each."""

    codes: torch.Tensor
    scales: torch.Tensor
    input_scale: float | None


class ScaledLinearMethod(LinearMethod):
    """Weights in fp8 with a scale for each row. Input rows are rounded to fp8, and sums are scaled by both scales."""

    name = "scaled"

    def __init__(
        self,
        storages: Mapping[str | None, WeightStorage],
        dtype: torch.dtype,
        device: torch.device,
        operations: LinearOperations,
    ) -> None:
        """storages: each shard's storage, in the order of rows, none refused by `scaled_fp8_refusal`."""
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
        assert isinstance(storage, QuantizedStorage)
        quantized = storage.read(tensor, rearrange)
        rows = len(quantized.codes)
        scales = scales_fp32(quantized)[:, 0].repeat_interleave(quantized.row_group)[:rows]
        is_static = quantized.activation is ActivationQuantization.STATIC
        self._shards[shard] = _Part(
            quantized.codes.to(self._device),
            scales.to(self._device, torch.float32),
            quantized.input_scale if is_static else None,
        )

    def process_after_loading(self, layer: LinearLayer) -> None:
        shards = [self._shards[shard] for shard in self._storages]
        if len({part.input_scale for part in shards}) == 1:
            codes = torch.cat([part.codes.view(torch.uint8) for part in shards]).view(torch.float8_e4m3fn)
            scales = torch.cat([part.scales for part in shards])
            shards = [dataclasses.replace(shards[0], codes=codes, scales=scales)]
        self._parts = shards
        self._shards.clear()
        for number, part in enumerate(shards):
            layer.register_buffer(f"codes_{number}", part.codes, persistent=False)
            layer.register_buffer(f"scales_{number}", part.scales, persistent=False)

    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        rows = self._operations.prepare(x, prologue, self.dtype)
        found = []
        for part in self._parts:
            codes, scales = _rounded(rows, part.input_scale)
            # The product of scales by rows is only in bf16 on a GPU.
            y = torch._scaled_mm(codes, part.codes.t(), scales, part.scales[None], out_dtype=torch.bfloat16)
            found.append(y)
        y = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        if layer.bias is not None:
            y = y + layer.bias
        return self._operations.finish(y.to(self.dtype), residual, out_dtype)

    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:  # noqa: ARG002
        return self._rows_of(ids, self.dtype)

    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:  # noqa: ARG002
        return self._rows_of(torch.arange(first, first + count, device=self._device), dtype)

    def _rows_of(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        codes = torch.cat([part.codes.view(torch.uint8) for part in self._parts]).view(torch.float8_e4m3fn)
        scales = torch.cat([part.scales for part in self._parts])
        return (take_rows(codes, ids).to(torch.float32) * scales[ids, None]).to(dtype)

    def format_of(self, shard: str | None) -> str:
        storage = self._storages[shard if shard in self._storages else None]
        assert isinstance(storage, QuantizedStorage)
        return storage.name


def _rounded(rows: torch.Tensor, input_scale: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows [T, columns] to fp8. Returns the codes, and the scales [T, 1] fp32."""
    wide = rows.to(torch.float32)
    if input_scale is None:
        scales = wide.abs().amax(-1, keepdim=True) / FP8_MAX
        scales = torch.where(scales > 0, scales, 1.0)
    else:
        scales = torch.full((len(rows), 1), input_scale, dtype=torch.float32, device=rows.device)
    return (wide / scales).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scales
