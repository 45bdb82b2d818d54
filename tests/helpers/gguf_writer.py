"""Writes a model of transformers as llama.cpp's converter does, in any type that GGUF has."""

import re
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import PretrainedConfig, PreTrainedModel

from tests.helpers.gguf_architectures import LAYOUTS
from tests.helpers.gguf_layouts import Layout, State

# Formats that gguf can only read: where d stands, and for those with a minimum the code that then means zero.
_RANDOM = {
    GGMLQuantizationType.Q2_K: (80, 1.5),
    GGMLQuantizationType.Q3_K: (108, None),
    GGMLQuantizationType.Q4_K: (0, 7.5),
    GGMLQuantizationType.Q5_K: (0, 15.5),
    GGMLQuantizationType.Q6_K: (208, None),
    GGMLQuantizationType.IQ4_NL: (0, None),
    GGMLQuantizationType.IQ4_XS: (0, None),
    GGMLQuantizationType.IQ1_S: (0, None),
    GGMLQuantizationType.IQ2_XXS: (0, None),
    GGMLQuantizationType.IQ2_XS: (0, None),
    GGMLQuantizationType.IQ2_S: (0, None),
    GGMLQuantizationType.IQ3_XXS: (0, None),
    GGMLQuantizationType.IQ3_S: (0, None),
}


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    kind: GGMLQuantizationType | Callable[[str], GGMLQuantizationType],
    *,
    split_max_tensors: int = 0,
    fuses: bool = False,
    adds: Callable[[GGUFWriter], None] = lambda _: None,
    layout: Layout | None = None,
) -> None:
    """Write the model with matrices in format `kind`, or each in what `kind` gives its name in transformers.

    fuses: q, k and v into one matrix, gate and up of experts, as the converter can be told to. adds: further metadata.
    layout: of another version of the converter.
    Puts what the file holds, dequantized, into `model`, so that the model is the file's truth.
    """
    config = model.config
    layout = layout or layout_of(config)
    names = gguf.get_tensor_name_map(layout.arch, config.num_hidden_layers)
    writer = GGUFWriter(path, layout.name, split_max_tensors=split_max_tensors)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    layout.describe(writer, config)
    adds(writer)
    state = _own_tensors(model)
    numbers = torch.cat([tensor.flatten() for tensor in state.values()])
    places = layout.rearrange(config, _numbered(state))  # of each number of the file among `numbers`
    if fuses:
        places = _fused(places)
    by_layer: dict[str, list[float]] = {}
    for name, place in places.items():
        values = numbers[place].numpy()
        if key := layout.in_metadata(name):
            by_layer.setdefault(key, []).append(float(values.item()))
            continue
        held = GGMLQuantizationType.F32
        if values.ndim >= 2 and "norm" not in name:
            held = kind(name) if callable(kind) else kind
        packed = random_blocks(values, held) if held in _RANDOM else gguf.quants.quantize(values, held)
        numbers[place] = torch.from_numpy(gguf.quants.dequantize(packed, held))
        stored_as = names.get_name(name, (".weight", ".bias")) or name
        writer.add_tensor(stored_as, layout.finish(name, packed), raw_dtype=held)
    with torch.no_grad():
        for tensor, values in zip(state.values(), numbers.split([t.numel() for t in state.values()]), strict=True):
            tensor.copy_(values.view(tensor.shape))
    for key, of_layers in by_layer.items():
        writer.add_array(key, of_layers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def layout_of(config: PretrainedConfig) -> Layout:
    """The converter's layout of a model; with experts in any layer, that for experts, if there is one."""
    kind = config.model_type
    has_experts = "moe" in (getattr(config, "layer_types", None) or ())
    return LAYOUTS[f"{kind}_moe" if has_experts and f"{kind}_moe" in LAYOUTS else kind]


def _fused(places: State) -> State:
    """q, k, v and gate, up of experts together, under the names that GGUF has for them."""
    fused = {}
    for name, place in places.items():
        layer = re.search(r"layers\.(\d+)\.", name)
        if ".q_proj." in name and layer:
            parts = [places[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            fused[f"blk.{layer[1]}.attn_qkv.{name.rpartition('.')[2]}"] = torch.cat(parts)
        elif name.endswith("experts.gate_proj.weight") and layer:
            up = places[name.replace("gate_proj", "up_proj")]
            fused[f"blk.{layer[1]}.ffn_gate_up_exps.weight"] = torch.cat((place, up), dim=1)
        elif not re.search(r"\.[kv]_proj\.|experts\.up_proj\.", name):
            fused[name] = place
    return fused


def _own_tensors(model: PreTrainedModel) -> State:
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def _numbered(state: State) -> State:
    """Tensors of the same shapes that hold 0, 1, 2 ..., on from one to the next."""
    numbered, start = {}, 0
    for name, tensor in state.items():
        numbered[name] = torch.arange(start, start + tensor.numel()).view(tensor.shape)
        start += tensor.numel()
    return numbered


def random_blocks(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Blocks of one of the _RANDOM formats that use all bits of codes and scales, [.., bytes].

    The numbers they hold are random, with mean 0 and the standard deviation of `values` [.., columns].
    """
    columns, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(values.size)
    raw = rng.integers(0, 256, (*values.shape[:-1], values.shape[-1] // columns, size), dtype=np.uint8)
    scale_at, middle = _RANDOM[kind]
    if middle is not None:  # scales and minima alike, so that a number is d * scale * (code - middle)
        if kind is GGMLQuantizationType.Q2_K:  # two nibbles
            raw[..., :16] = raw[..., :16] % 16 * 17
        else:  # 6 bits each
            raw[..., 8:12] = raw[..., 4:8]
            raw[..., 12:16] = raw[..., 12:16] % 16 * 17
    halves = np.array([1.0] if middle is None else [1.0, middle])
    end = scale_at + 2 * len(halves)
    raw[..., scale_at:end] = halves.astype(np.float16).view(np.uint8)
    factor = values.std() / gguf.quants.dequantize(raw.reshape(-1, size), kind).std()
    raw[..., scale_at:end] = (halves * factor).astype(np.float16).view(np.uint8)
    return raw.reshape(*values.shape[:-1], -1)
