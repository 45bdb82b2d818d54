"""Choice of each linear layer's scheme, from what the checkpoint holds for it and from what this machine can do."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from models.checkpoints.base import StoredTensor
from models.decoder import Decoder
from models.kernels.arena import HugePageArena
from models.kernels.cpu.library import kernel_library
from models.kernels.packed_weight import WeightFormat
from models.linear.dense import Unquantized
from models.linear.dequantizing import Codes
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.native import Packed
from models.linear.per_head import PerHeadLinear
from models.linear.storage import Quantized, WeightOptions
from models.loading.assign import Assignment
from models.quant.round_to_nearest import kind_on_load
from models.quant.scaled_weight import scaled_refusal
from models.quant.tensor import WIDE_ENCODINGS

_BF16_COLUMNS = 16  # the bf16 kernel takes multiples of


@dataclass(slots=True)
class Choices:
    """What was chosen that the operator should know. Counted are tensors, by the format in which they are stored."""

    refusal: str | None  # why nothing is native
    no_keeping: str  # why what is dequantized is so
    packed_bytes: int = 0  # what kernels' layouts and codes take at least, beside the decoder's parameters
    made: Counter[str] = field(default_factory=Counter)  # quantized on load
    in_torch: Counter[str] = field(default_factory=Counter)  # codes without a kernel, by the reason
    dequantized: Counter[str] = field(default_factory=Counter)
    widened: Counter[str] = field(default_factory=Counter)  # into a format of more bits with the same numbers


def native_linears_refusal(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the native linear kernels cannot serve a model, or None if they can."""
    if device.type != "cpu":
        return f"the native kernels run on the CPU, not on {device}"
    if dtype != torch.bfloat16:
        return f"the native kernels compute in bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if kernel_library() is None:
        return "the native kernels are not available (the reason is in the log)"
    return None


def choose_schemes(
    decoder: Decoder, plan: Sequence[Assignment], dtype: torch.dtype, device: torch.device, options: WeightOptions
) -> Choices:
    """Give every linear layer the scheme for what it will hold; the unquantized ones without a kernel keep theirs."""
    stored: dict[str, dict[str | None, StoredTensor]] = defaultdict(dict)
    for assignment in plan:
        if assignment.destination.parameter == "weight":
            stored[assignment.destination.module][assignment.destination.shard] = assignment.tensor
    refusal = native_linears_refusal(dtype, device)
    asked = "there is no kernel for them" if options.keeps_quantized else "as asked for"
    choices = Choices(refusal, refusal or asked)
    if choices.refusal is None:
        # Kernels add in fp32 anyway: rounding the sums to bf16 would more than double the divergence from fp32 (SmolLM2
        # in bf16: 2.3e-4 -> 6.0e-4 nats a token) and save no time.
        decoder.residual_dtype = torch.float32
    arena = HugePageArena()
    for name, layer in decoder.named_modules():  # once each, so that a tied head counts as the embedding that it is
        if isinstance(layer, PerHeadLinear) and choices.refusal is None:
            layer.pack_into(arena)
        if not isinstance(layer, Linear):
            continue
        tensors = {shard: stored[name][shard] for shard in ([None] if None in stored[name] else layer.shards)}
        held = {shard: _held(decoder, layer, tensor, options) for shard, tensor in tensors.items()}
        reason = choices.refusal or _native_refusal(decoder, layer, list(held.values()))
        if reason is not None:
            held = {shard: kept if torch_holds(kept, device) else None for shard, kept in held.items()}
        if reason is None:
            formats = {shard: WeightFormat.BF16 if kept is None else kept for shard, kept in held.items()}
            layer.store_as(Packed(formats, arena))
        elif any(kept is not None for kept in held.values()):
            layer.store_as(Codes(held, dtype, device))
            choices.in_torch[reason] += sum(kept is not None for kept in held.values())
        if not isinstance(layer.scheme, Unquantized):
            choices.packed_bytes += sum(_least_bytes(layer, shard, kept) for shard, kept in held.items())
        for shard, tensor in tensors.items():
            _count(choices, tensor, held[shard])
    return choices


def torch_holds(kept: WeightFormat | Quantized | None, device: torch.device) -> bool:
    """Whether a weight without a kernel stays quantized, to be dequantized in every step.

    GGUF's own formats do where memory is scarcer than time: on a CPU that takes many times as long as the product.
    """
    return isinstance(kept, Quantized) or (kept is not None and device.type != "cpu")


def _held(
    decoder: Decoder, layer: Linear, tensor: StoredTensor, options: WeightOptions
) -> WeightFormat | Quantized | None:
    """What a weight stays or becomes if the machine can compute with it; None is dense."""
    is_inner = not isinstance(layer, Embedding) and layer is not decoder.head
    quantize_to, stored = options.quantize_to, tensor.quantized
    if quantize_to is not None and (is_inner or options.includes_head):
        if stored is None or stored.kind.encoding is not quantize_to:
            kind = kind_on_load(quantize_to, layer.in_features, options.group_size)
            return Quantized(kind, layer.in_features, is_made=True)
    elif not options.keeps_quantized:
        return None
    if stored is not None:
        return Quantized(stored.kind, layer.in_features)
    is_known = tensor.read_packed is not None and tensor.format in WeightFormat.__members__
    return WeightFormat[tensor.format] if is_known else None


def _native_refusal(decoder: Decoder, layer: Linear, held: Sequence[WeightFormat | Quantized | None]) -> str | None:
    """Why the kernels do not take the layer, whose weights are `held`, or None if they do."""
    for kept in held:
        if isinstance(kept, Quantized) and (reason := scaled_refusal(kept.kind, layer.in_features)):
            return reason
    if None in held:
        if isinstance(layer, Embedding) and layer is not decoder.head:
            return "rows are only looked up"
        if layer.in_features % _BF16_COLUMNS:
            return f"{layer.in_features} columns are no multiple of {_BF16_COLUMNS}"
    return None


def _least_bytes(layer: Linear, shard: str | None, kept: WeightFormat | Quantized | None) -> int:
    """Of one weight: scales of codes are left out."""
    weights = layer.rows(shard)[1] * layer.in_features
    if isinstance(kept, Quantized):
        return weights if kept.kind.encoding in WIDE_ENCODINGS else weights // 2
    if kept is None or kept is WeightFormat.BF16:
        return weights * 2
    columns, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kept.name]]
    return weights // columns * num_bytes


def _count(choices: Choices, tensor: StoredTensor, kept: WeightFormat | Quantized | None) -> None:
    name = tensor.format.lower()
    if isinstance(kept, Quantized):
        choices.made[name] += kept.is_made
        if tensor.wider_format is not None and not kept.is_made:
            choices.widened[f"{name} as {tensor.wider_format.lower()}"] += 1
    elif (tensor.read_packed or tensor.quantized) and kept is None:
        choices.dequantized[name] += 1
