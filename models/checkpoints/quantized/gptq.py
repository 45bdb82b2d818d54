"""GPTQ checkpoints (Frantar et al. 2023), as AutoGPTQ and GPTQModel write them.

qweight  int32 [columns * bits / 32, rows]: codes of one output, 32 / bits consecutive inputs per word, lowest first
scales   fp16 [groups, rows]
qzeros   int32 [groups, rows * bits / 32], packed alike along the outputs; format "gptq" stores each word less one in
         every field (as a subtraction of whole words, which may borrow), "gptq_v2" stores them unchanged
g_idx    int32 [columns]: the group of each input; with desc_act (act-order) in any order
"""

import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.packed_codes import permute_codes, signed_codes, sorting_permutation
from models.checkpoints.quantized.parts import FLOATS, ModulePart, Parts, check_divides
from models.config.hf_config import HFConfig
from models.errors import CheckpointError, UnsupportedModelError
from models.quant.nibbles import unpack_nibbles
from models.quant.tensor import Encoding, QuantKind, QuantTensor

_ENCODINGS = {4: Encoding.INT4, 8: Encoding.INT8}
_ONE_IN_EVERY_FIELD = {4: 0x11111111, 8: 0x01010101}
_FORMATS = ("gptq", "gptq_v2")


class GPTQ:
    """Reader of the modules of one GPTQ checkpoint."""

    def __init__(self, config: HFConfig) -> None:
        self._bits = config.integer("bits")
        if self._bits not in _ENCODINGS:
            raise UnsupportedModelError(
                f"{config.source}: GPTQ with {self._bits} bits is not supported; use a version with 4 or 8 bits"
            )
        is_marlin = config.boolean("is_marlin_format", False)  # AutoGPTQ's
        self._format = "marlin" if is_marlin else config.text("checkpoint_format", config.text("format", "gptq"))
        if self._format not in _FORMATS:
            raise UnsupportedModelError(
                f"{config.source}: GPTQ's checkpoint format {self._format!r} is not supported; use a version in the "
                f"format {' or '.join(_FORMATS)}"
            )
        overrides = [name for name in config.section("dynamic").fields if not name.startswith("-:")]
        if overrides:
            raise UnsupportedModelError(
                f"{config.source}: GPTQ with other settings for some modules (dynamic: {overrides[0]!r}) is not "
                "supported; use a version with one setting for all"
            )
        self._group_size = config.integer("group_size", minimum=-1)
        self._is_symmetric = config.boolean("sym")
        self._has_act_order = config.boolean("desc_act", False)

    def module_of(self, tensor: StoredTensor) -> str | None:
        return tensor.name.removesuffix(".qweight") if tensor.name.endswith(".qweight") else None

    def gather(self, parts: Parts) -> StoredTensor:
        bits = self._bits
        codes = parts.take_matrix(".qweight", ("I32",))
        columns, rows = codes.shape[0] * 32 // bits, codes.shape[1]
        group_size = columns if self._group_size < 1 else self._group_size
        check_divides(parts, group_size, columns, "group_size")
        groups = columns // group_size
        if rows * bits % 32:
            raise parts.broken(f"{codes.name!r} has {rows} outputs, which do not fill words of 32 bits")
        scales = parts.take(".scales", FLOATS, (groups, rows))
        zeros = parts.take(".qzeros", ("I32",), (groups, rows * bits // 32))
        group_of = None
        if self._has_act_order or parts.has(".g_idx"):
            group_of = parts.take(".g_idx", ("I32",), (columns,))
        parts.mark_zero_bias()  # AutoGPTQ's
        kind = QuantKind(_ENCODINGS[bits], group_size, has_zeros=not self._is_symmetric)

        def read() -> QuantTensor:
            permutation = None
            if group_of is not None:
                permutation = sorting_permutation(group_of.read(), group_size, group_of.name)
            packed = codes.read().t().contiguous().view(torch.uint8)  # [rows, columns * bits / 8]
            return QuantTensor(
                kind.encoding,
                permute_codes(signed_codes(packed, bits), permutation, bits),
                scales.read_scales().t().contiguous(),
                self._zeros(zeros),
                group_size,
                permutation=permutation,
            )

        return parts.stored((rows, columns), kind, read)

    def _zeros(self, part: ModulePart) -> torch.Tensor | None:
        """Return zero points [rows, groups] uint8 or int8, or None if the checkpoint is symmetric."""
        words = part.read()
        if self._format == "gptq":
            words = words + _ONE_IN_EVERY_FIELD[self._bits]  # wraps around like the subtraction
        fields = words.contiguous().view(torch.uint8)
        zeros = signed_codes(unpack_nibbles(fields) if self._bits == 4 else fields, self._bits)
        if not self._is_symmetric:
            return zeros.t().contiguous()
        if bool((zeros != (8 if self._bits == 4 else 0)).any()):
            raise CheckpointError(
                f"{part.name!r} holds zero points, but quantization_config says sym; fetch the checkpoint again"
            )
        return None
