"""CheckpointWriter: writes a model's tensors into a compressed-tensors checkpoint, and chooses which are quantized."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.command_io.quantize_config import GROUP_SIZES, QuantizeConfig, Scheme
from engine.errors import StartupError
from models.decoder import Decoder
from models.export.compressed_tensors import ExportFormat, compressed_tensors_config, module_tensors
from models.export.hugging_face import Layout
from models.export.shards import ShardWriter
from models.forward.layer_stream import layer_of
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.loading.assign import Assignment, check_finite
from models.quant.tensor import Encoding, QuantTensor

_STORED_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}  # written as they are read
OUTPUT_FORMATS = {
    Scheme.INT4: ExportFormat(Encoding.INT4),
    Scheme.INT8: ExportFormat(Encoding.INT8),
    Scheme.FP8: ExportFormat(Encoding.FP8_E4M3),
    Scheme.W8A8: ExportFormat(Encoding.INT8, rounds_inputs=True),
    Scheme.FP8_DYNAMIC: ExportFormat(Encoding.FP8_E4M3, rounds_inputs=True),
}


@dataclass(slots=True)
class ConversionResult:
    """Summary of a written checkpoint, for the report."""

    num_bytes: int = 0
    group_sizes: dict[str, int | None] = field(default_factory=dict)  # by quantized module; None: one scale per row
    unquantized: list[str] = field(default_factory=list)  # names of linear modules that stay unquantized

    def describe_groups(self) -> str:
        """Return a text such as "groups of 64 columns in 90 matrices, a scale a row in 30 matrices"."""
        counts = Counter(self.group_sizes.values())
        return ", ".join(
            f"{'a scale a row' if size is None else f'groups of {size} columns'} in {count} matrices"
            for size, count in counts.most_common()
        )


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


class CheckpointWriter:
    """Writes a checkpoint tensor by tensor. output_format: the format of quantized tensors. dtype: the dtype of their
    scales."""

    def __init__(
        self, folder: Path, layout: Layout, decoder: Decoder, config: QuantizeConfig, dtype: torch.dtype
    ) -> None:
        """layout: tensor names and row order. dtype: the dtype of scales, and of unquantized tensors that are not kept
        in their stored dtype."""
        self.output_format = OUTPUT_FORMATS[config.scheme]
        self.dtype = dtype
        self._folder = folder
        self._layout = layout
        self._decoder = decoder
        self._columns_per_scale = config.columns_per_scale
        self._shards = ShardWriter(folder)
        self._result = ConversionResult()

    def is_inner_linear(self, assignment: Assignment) -> bool:
        """Return whether the tensor is the matrix of a linear layer inside a decoder layer."""
        module = self._decoder.get_submodule(assignment.destination.module)
        is_matrix = isinstance(module, Linear) and assignment.destination.parameter == "weight"
        return is_matrix and layer_of(assignment) is not None

    def group_size(self, assignment: Assignment) -> int | None:
        """Return the number of columns that share a scale; None if the tensor is not quantized."""
        return self.group_size_for(assignment.tensor.shape[-1]) if self.is_inner_linear(assignment) else None

    def group_size_for(self, columns: int) -> int | None:
        """Return the number of columns that share a scale: the requested size, or the next smaller that divides
        `columns`; None if none does."""
        requested = self._columns_per_scale
        if requested is None:
            return columns
        return next((size for size in GROUP_SIZES if size <= requested and columns % size == 0), None)

    def num_bytes(self, assignment: Assignment) -> float:
        """Return the bytes that the tensor will take in the file."""
        count = math.prod(assignment.tensor.shape)
        size = self.group_size(assignment)
        if size is None:
            return count * self._plain_dtype(assignment).itemsize
        codes = count / 2 if self.output_format.encoding is Encoding.INT4 else count
        return codes + count / size * self.dtype.itemsize

    def write(self, assignment: Assignment, quantized: QuantTensor) -> None:
        module = self._layout.name(assignment).removesuffix(".weight")
        for tensor_name, tensor in module_tensors(module, quantized, self.output_format).items():
            self._shards.add(tensor_name, tensor)
        self._result.group_sizes[module] = quantized.group_size if self._columns_per_scale else None

    def write_unquantized(
        self, assignment: Assignment, fold_factors: Callable[[torch.Tensor], torch.Tensor] = _same
    ) -> None:
        """Write a tensor unquantized, with `fold_factors` applied, in its stored dtype; in the checkpoint's dtype if it
        is stored quantized or comes from a GGUF."""
        name = self._layout.name(assignment)
        values = self._layout.values(assignment, self._decoder, self._plain_dtype(assignment))
        check_finite(assignment.tensor, values)
        self._shards.add(name, fold_factors(values).to(values.dtype))
        module = self._decoder.get_submodule(assignment.destination.module)
        if name.endswith(".weight") and values.dim() == 2 and not isinstance(module, Embedding):
            self._result.unquantized.append(name.removesuffix(".weight"))

    def _plain_dtype(self, assignment: Assignment) -> torch.dtype:
        tensor = assignment.tensor
        return self.dtype if tensor.read_stored is None else _STORED_DTYPES.get(tensor.format, self.dtype)

    def finish(self) -> ConversionResult:
        """Complete the checkpoint with its index, configuration and tokenizer. Raises StartupError if the
        files cannot be written."""
        result = self._result
        fields = compressed_tensors_config(self.output_format, result.group_sizes, result.unquantized)
        try:
            self._shards.finish()
            self._layout.write_rest(self._folder, {"quantization_config": fields})
        except OSError as error:
            raise StartupError(
                f"cannot write the checkpoint ({error.strerror}: {error.filename}); fix that, or name another folder "
                "with --out"
            ) from error
        result.num_bytes = self._shards.num_bytes
        return result
