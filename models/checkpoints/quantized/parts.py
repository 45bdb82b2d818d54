"""Parts: the tensors that make up one quantized matrix, taken from a checkpoint by name, format and shape."""

import dataclasses
from collections.abc import Callable

import torch

from models.checkpoints.base import StoredQuant, StoredTensor
from models.errors import CheckpointError
from models.quant.dequantize import dequantize
from models.quant.tensor import Encoding, QuantKind, QuantTensor

FLOATS = ("BF16", "F16", "F32")  # formats of scales
E8M0 = ("U8", "F8_E8M0")  # of scales that are powers of two
SINGLE_SCALE = ((), (1,), (1, 1))  # shapes of one scale for a whole matrix


class ModulePart:
    """A tensor of a quantized module; its data is read only by the `read` functions."""

    def __init__(self, tensor: StoredTensor) -> None:
        assert tensor.read_stored is not None, "tensors of safetensors files have read_stored"
        self.shape = tensor.shape
        self.format = tensor.format
        self.num_bytes = tensor.num_bytes
        self.name = tensor.name
        self.file = tensor.file
        self.read = tensor.read_stored

    def read_scales(self, first: int = 0, count: int | None = None) -> torch.Tensor:
        """Return the scales, or `count` of them along the first dimension from `first` on; E8M0 as uint8.

        Raises CheckpointError if they are not finite.
        """
        values = self.read() if count is None else self.read()[first : first + count]
        if values.dtype == torch.float8_e8m0fnu:
            values = values.view(torch.uint8)
        is_finite = values != 255 if values.dtype == torch.uint8 else values.float().isfinite()  # 255 is E8M0's NaN
        if not bool(is_finite.all()):
            raise CheckpointError(
                f"{self.file}: {self.name!r} has scales that are not finite; fetch the checkpoint again"
            )
        return values

    def read_number(self) -> float:
        """Return a scale that is one number. Raises CheckpointError if it is not finite."""
        return float(self.read_scales().float().item())

    def read_positive(self) -> float:
        """Return a scale that is one number. Raises CheckpointError unless it is above 0."""
        scale = self.read_number()
        if scale <= 0:
            raise CheckpointError(f"{self.name!r} is {scale}; it must be above 0; fetch the checkpoint again")
        return scale


class Parts:
    """Takes a module's parts out of the dict of the checkpoint's tensors, so that no two modules use one tensor."""

    def __init__(self, module: str, tensors: dict[str, StoredTensor], codes: StoredTensor) -> None:
        """module: prefix of the parts' names. codes: the tensor by which the module was found."""
        self.module = module
        self.file = codes.file
        self.num_bytes = 0
        self._tensors = tensors

    def has(self, suffix: str) -> bool:
        return self.module + suffix in self._tensors

    def take(self, suffix: str, formats: tuple[str, ...], *shapes: tuple[int, ...]) -> ModulePart:
        """Return the part called `module + suffix`, in one of `formats` and, if given, one of `shapes`.

        Raises CheckpointError if the part is missing, or has another format or shape.
        """
        name = self.module + suffix
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            raise CheckpointError(
                f"{self.file} lacks tensor {name!r} of a quantized matrix; fetch the checkpoint again"
            )
        if tensor.format not in formats:
            raise self.broken(f"{name!r} is stored as {tensor.format}; it must be {' or '.join(formats)}")
        if shapes and tensor.shape not in shapes:
            allowed = " or ".join(str(list(shape)) for shape in shapes)
            raise self.broken(f"{name!r} has shape {list(tensor.shape)}; by the other tensors it must be {allowed}")
        self.num_bytes += tensor.num_bytes
        return ModulePart(tensor)

    def take_matrix(self, suffix: str, formats: tuple[str, ...]) -> ModulePart:
        """Return a part with two dimensions, neither of them 0."""
        part = self.take(suffix, formats)
        if len(part.shape) != 2 or 0 in part.shape:
            raise self.broken(f"{part.name!r} has shape {list(part.shape)}; it must be a matrix")
        return part

    def mark_zero_bias(self) -> None:
        """Mark a bias of zeros as one that may be unused, since quantizers add it to layers without a bias.

        In an architecture with biases, the zeros are used.
        """
        bias = self._tensors.get(self.module + ".bias")
        if bias is not None and bias.read_stored is not None and not bool(bias.read_stored().any()):
            self._tensors[bias.name] = dataclasses.replace(bias, may_be_unused=True)

    def broken(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file}: {reason}; check that weights and quantization_config come from one complete checkpoint"
        )

    def stored(self, shape: tuple[int, ...], kind: QuantKind, read: Callable[[], QuantTensor]) -> StoredTensor:
        """Return the quantized matrix that the parts taken so far make up, called `<module>.weight`.

        shape: [rows, columns], or [experts, rows, columns]. read: reads the parts.
        """
        name = f"{self.module}.weight"

        def read_checked() -> QuantTensor:
            matrix = read()
            if kind.encoding is Encoding.FP8_E4M3 and bool((matrix.codes.view(torch.uint8) & 0x7F == 0x7F).any()):
                raise CheckpointError(f"{self.file}: {name!r} has codes that are NaN; fetch the checkpoint again")
            return matrix

        def read_dense(dtype: torch.dtype) -> torch.Tensor:
            return dequantize(read_checked(), dtype).view(shape)

        return StoredTensor(
            name,
            shape,
            kind.encoding.name,
            self.num_bytes,
            self.file,
            read_dense,
            quantized=StoredQuant(kind, read_checked),
        )


def read_matrix(
    kind: QuantKind,
    codes: torch.Tensor,
    scales: ModulePart,
    grid: tuple[int, int],
    zeros: torch.Tensor | None = None,
    input_scale: ModulePart | None = None,
    permutation: torch.Tensor | None = None,
) -> QuantTensor:
    """Read `scales` and return them with `codes` as a QuantTensor. grid: the shape of the scales, [over rows, over
    columns]."""
    return QuantTensor(
        kind.encoding,
        codes.contiguous(),
        scales.read_scales().view(grid),
        zeros,
        kind.group_size,
        kind.row_group,
        permutation,
        kind.activation,
        None if input_scale is None else input_scale.read_positive(),
    )


def check_divides(parts: Parts, size: int, columns: int, what: str) -> None:
    if columns % size:
        raise parts.broken(f"{what} {size} does not divide the {columns} columns of {parts.module!r}")
