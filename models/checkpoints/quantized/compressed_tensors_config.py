"""The quantization_config of compressed-tensors: settings of each module, checked against what headrace supports."""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.checkpoints.quantized.fp8 import block_of
from models.checkpoints.quantized.parts import Parts
from models.config.hf_config import HFConfig
from models.config.patterns import module_pattern
from models.errors import CheckpointError, UnsupportedModelError
from models.quant.tensor import NVFP4_GROUP, ActivationQuantization, Encoding


class Format(enum.Enum):
    """Layout of a module's tensors."""

    PACKED = enum.auto()
    CODES = enum.auto()
    MXFP4 = enum.auto()
    NVFP4 = enum.auto()
    MXFP8 = enum.auto()


class Strategy(enum.Enum):
    """Granularities of scales: which weights share a scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    GROUP = "group"
    BLOCK = "block"
    TENSOR_GROUP = "tensor_group"  # as GROUP, and one for the matrix


_PATTERN = "re:"
_FORMATS = {
    "pack-quantized": Format.PACKED,
    "int-quantized": Format.CODES,
    "float-quantized": Format.CODES,
    "naive-quantized": Format.CODES,
    "mxfp4-pack-quantized": Format.MXFP4,
    "nvfp4-pack-quantized": Format.NVFP4,
    "mxfp8-quantized": Format.MXFP8,
}
_ENCODINGS = {
    (Format.PACKED, "int", 4): Encoding.INT4,
    (Format.PACKED, "int", 8): Encoding.INT8,
    (Format.CODES, "int", 8): Encoding.INT8,
    (Format.CODES, "float", 8): Encoding.FP8_E4M3,
    (Format.MXFP4, "float", 4): Encoding.E2M1,
    (Format.NVFP4, "float", 4): Encoding.E2M1,
    (Format.MXFP8, "float", 8): Encoding.FP8_E4M3,
}
# Type, bits and strategy of input_activations that save time on some GPUs only: unrounded rows are nearer to the model.
_ROUNDED_ON_GPUS = {Format.NVFP4: ("float", 4, "tensor_group"), Format.MXFP8: ("float", 8, "group")}
# (dynamic, strategy) of input_activations.
_ACTIVATIONS = {
    (True, "token"): ActivationQuantization.DYNAMIC_PER_TOKEN,
    (True, "group"): ActivationQuantization.DYNAMIC_PER_GROUP,
    (False, "tensor"): ActivationQuantization.STATIC,
}


@dataclass(frozen=True, slots=True)
class ModuleFormat:
    """Storage format of the modules in one group."""

    format: Format
    encoding: Encoding
    bits: int
    strategy: Strategy
    group_size: int  # 0 unless Strategy.GROUP or TENSOR_GROUP
    block: tuple[int, int]  # (0, 0) unless Strategy.BLOCK
    is_symmetric: bool
    has_act_order: bool
    activation: ActivationQuantization


@dataclass(frozen=True, slots=True)
class CompressedTensorsConfig:
    """Groups of modules in a compressed-tensors configuration, with their settings, in the file's order."""

    groups: Sequence[tuple[Sequence[str], ModuleFormat]]  # targets: "Linear", a module's name, "re:" and a pattern
    patterns: Mapping[str, re.Pattern[str]]  # of the targets that are patterns

    def format_of(self, parts: Parts) -> ModuleFormat:
        """Return a module's settings: those of the group that names the module, else of a group with a pattern that
        matches its name, else of the group for all Linear layers. Raises CheckpointError if no group applies.
        """
        for is_match in (
            lambda target: target == parts.module,
            lambda target: target in self.patterns and self.patterns[target].match(parts.module),
            lambda target: target == "Linear",  # only linear layers have codes
        ):
            for targets, settings in self.groups:
                if any(map(is_match, targets)):
                    return settings
        raise parts.broken(f"{parts.module!r} is stored quantized, and no group of quantization_config names it")


def read_config(config: HFConfig) -> CompressedTensorsConfig:
    """Read a quantization_config of compressed-tensors. Raises UnsupportedModelError, which says what is supported."""
    for field, supported in (("sparsity_config", "dense"), ("transform_config", None)):
        section = config.section(field)
        if section.fields and not (supported and section.text("format", supported) == supported):
            raise UnsupportedModelError(f"{config.source}: {field} is not supported; use a version without it")
    overall = config.text("format", "mixed-precision")
    groups = config.section("config_groups")
    if not groups.fields:
        raise CheckpointError(f"{config.source} has no config_groups; fetch the checkpoint's own configuration again")
    read = [_group(groups.section(name), overall) for name in groups.fields]
    patterns = {
        target: module_pattern(target.removeprefix(_PATTERN), groups.source)
        for targets, _ in read
        for target in targets
        if target.startswith(_PATTERN)
    }
    return CompressedTensorsConfig(read, patterns)


def _group(group: HFConfig, overall: str) -> tuple[Sequence[str], ModuleFormat]:
    targets = group.fields.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise CheckpointError(
            f"{group.source}: targets is {targets!r}; it must be a list of strings; "
            "fetch the checkpoint's own configuration again"
        )
    weights = group.section("weights")
    name = group.text("format", overall)
    bits, number = weights.integer("num_bits"), weights.text("type", "int")
    layout = _FORMATS.get(name)
    encoding = None if layout is None else _ENCODINGS.get((layout, number, bits))
    if layout is None or encoding is None:
        raise UnsupportedModelError(
            f"{group.source}: format {name!r} with {bits}-bit {number} weights is not supported; use a version in "
            "pack-quantized (4 or 8 bits), int-quantized, float-quantized (FP8), mxfp8-quantized, mxfp4- or "
            "nvfp4-pack-quantized"
        )
    strategy = _strategy(weights)
    group_size = weights.integer("group_size") if strategy in (Strategy.GROUP, Strategy.TENSOR_GROUP) else 0
    if (layout is Format.NVFP4) != (strategy is Strategy.TENSOR_GROUP) or (
        layout is Format.NVFP4 and group_size != NVFP4_GROUP
    ):
        raise UnsupportedModelError(
            f"{group.source}: format {name!r} with strategy {strategy.value!r} and groups of {group_size} is not "
            f"supported; NVFP4 has 'tensor_group' and groups of {NVFP4_GROUP}; use another version"
        )
    return targets, ModuleFormat(
        format=layout,
        encoding=encoding,
        bits=bits,
        strategy=strategy,
        group_size=group_size,
        block=_block(weights) if strategy is Strategy.BLOCK else (0, 0),
        is_symmetric=weights.boolean("symmetric", True),
        has_act_order=weights.fields.get("actorder") in ("group", "dynamic"),
        activation=_activation(group, layout, encoding),
    )


def _block(weights: HFConfig) -> tuple[int, int]:
    value = weights.fields.get("block_structure", "128x128")
    if isinstance(value, str):  # written by old versions
        sizes = [int(size) if size.isdecimal() else size for size in value.split("x")]
        weights = HFConfig({"block_structure": sizes}, weights.source)
    return block_of(weights, "block_structure") or (128, 128)


def _strategy(weights: HFConfig) -> Strategy:
    implied = "group" if weights.has("group_size") else "tensor"
    name = weights.text("strategy", implied)
    try:
        return Strategy(name)
    except ValueError:
        known = ", ".join(strategy.value for strategy in Strategy)
        raise UnsupportedModelError(
            f"{weights.source}: strategy {name!r} is not supported; use a version with one of {known}"
        ) from None


def _activation(group: HFConfig, layout: Format, encoding: Encoding) -> ActivationQuantization:
    for field in ("input_activations", "output_activations"):
        if group.has(field) and not group.section(field).fields:
            raise CheckpointError(f"{group.source}: {field} is empty; fetch the checkpoint's own configuration again")
    if group.has("output_activations"):
        raise UnsupportedModelError(f"{group.source}: output_activations is not supported; use a version without it")
    if not group.has("input_activations"):
        return ActivationQuantization.NONE
    inputs = group.section("input_activations")
    bits, number = inputs.integer("num_bits"), inputs.text("type", "int")
    dynamic, strategy = inputs.fields.get("dynamic", False), inputs.text("strategy", "tensor")
    activation = _ACTIVATIONS.get((dynamic, strategy)) if isinstance(dynamic, bool) else None
    if _ROUNDED_ON_GPUS.get(layout) == (number, bits, strategy):
        return ActivationQuantization.NONE
    is_like_weights = (number, bits) == {Encoding.INT8: ("int", 8), Encoding.FP8_E4M3: ("float", 8)}.get(encoding)
    if activation is None or not is_like_weights or not inputs.boolean("symmetric", True):
        raise UnsupportedModelError(
            f"{inputs.source}: {bits}-bit {number} activations (dynamic {dynamic}, strategy {strategy!r}, symmetric "
            f"{inputs.boolean('symmetric', True)}) with weights in {encoding.name} are not supported; use a version "
            "with symmetric 8-bit activations like its weights, dynamic per token or static per tensor, or without"
        )
    return activation
