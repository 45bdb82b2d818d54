"""Choice of each linear layer's scheme, from what the checkpoint holds for it and from what this machine can do."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from models.checkpoints.base import StoredTensor
from models.decoder import Decoder
from models.kernels.arena import HugePageArena
from models.kernels.cpu.library import kernel_library
from models.kernels.linear import WeightFormat
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.quant.packed import Packed
from models.weights import Assignment

_BF16_COLUMNS = 16  # the bf16 kernel takes multiples of


def native_linears_refusal(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the native linear kernels cannot serve a model, or None if they can."""
    if device.type != "cpu":
        return f"the native kernels run on the CPU, not on {device}"
    if dtype != torch.bfloat16:
        return f"the native kernels compute in bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if kernel_library() is None:
        return "the native kernels are not available (the reason is in the log)"
    return None


def use_native_linears(decoder: Decoder, plan: Sequence[Assignment], *, keeps_quantised: bool) -> int:
    """Give every linear layer that a native kernel can serve its packed scheme; the others keep theirs.

    keeps_quantised: weights that the checkpoint holds in a format with a kernel stay in it; else they become bf16, like
    all others. Returns how many layers are dequantised because only some of their shards have such a format.
    """
    stored: dict[str, dict[str | None, StoredTensor]] = defaultdict(dict)
    for assignment in plan:
        if assignment.destination.parameter == "weight":
            stored[assignment.destination.module][assignment.destination.shard] = assignment.tensor
    # Kernels add in fp32 anyway: rounding the sums to bf16 would more than double the divergence from fp32 (SmolLM2 in
    # bf16: 2.3e-4 -> 6.0e-4 nats a token) and save no time.
    decoder.residual_dtype = torch.float32
    num_mixed = 0
    arena = HugePageArena()
    for name, layer in decoder.named_modules():  # once each, so that a tied head counts as the embedding that it is
        if not isinstance(layer, Linear):
            continue
        formats = _native_formats(stored[name]) if keeps_quantised else {}
        shards: list[str | None] = [None] if None in stored[name] else list(layer.shards)
        is_multiplied = not isinstance(layer, Embedding) or layer is decoder.head
        if len(formats) == len(shards):
            layer.store_as(Packed({shard: formats[shard] for shard in shards}, arena))
        elif is_multiplied and layer.in_features % _BF16_COLUMNS == 0:
            layer.store_as(Packed(dict.fromkeys(shards, WeightFormat.BF16), arena))
        num_mixed += 0 < len(formats) < len(shards)
    return num_mixed


def _native_formats(tensors: Mapping[str | None, StoredTensor]) -> dict[str | None, WeightFormat]:
    """The formats of those tensors that a kernel takes as they are."""
    return {
        shard: WeightFormat[tensor.format]
        for shard, tensor in tensors.items()
        if tensor.read_packed is not None and tensor.format in WeightFormat.__members__
    }
