"""Tiny random checkpoints, written by transformers (safetensors) and by the gguf package, and loaded by our loader."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from models.attention.base import AttentionBackend
from models.attention.reference import ReferenceAttention
from models.checkpoints.gguf import GGUFCheckpoint
from models.checkpoints.gguf_config import gguf_config
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.decoder import Decoder
from models.hf_config import read_json_config
from models.loader import build_decoder
from models.quant.select import WeightOptions
from models.registry import family_of

VOCAB_SIZE = 128
SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,  # small enough that a short prompt meets all three bands
}
# Of routers' weights: few rows stand between two experts, where rounding decides. Saturated sigmoids would all be near.
ROUTER_SPREAD = {"deepseek_v3": 2.0}


def llama_config(**changes: object) -> LlamaConfig:
    return LlamaConfig(**{**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, **changes})


def mistral_config(**changes: object) -> MistralConfig:
    return MistralConfig(**{**SMALL, "head_dim": 16, "sliding_window": 6, **changes})


def qwen2_config(**changes: object) -> Qwen2Config:
    return Qwen2Config(**{**SMALL, **changes})


def gpt2_config(**changes: object) -> GPT2Config:
    sizes = {"vocab_size": VOCAB_SIZE, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 2, **changes})


def random_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A transformers model in fp32 whose logits have a standard deviation near 1.

    The default initialisation is so small that every layer is nearly the identity, which hides errors. Weights are
    rounded to bf16, so that fp32 and bf16 runs of one checkpoint differ in their arithmetic only.
    """
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._from_config(config, attn_implementation=exact_attention(config))
    usual = 0.0 if config.model_type.startswith("gemma") else 1.0  # of norms' weights: Gemma stores them less one
    generator = torch.Generator().manual_seed(seed)
    turned = _stored_as_inputs_by_outputs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                values *= parameter.shape[-2 if name in turned else -1] ** -0.5
                if name.endswith(("gate.weight", "router.weight", "layer.weight")) and len(parameter) < 16:
                    values *= ROUTER_SPREAD.get(config.model_type, 4.0)
            elif name.endswith("bias"):
                values *= 0.3
            else:
                values = usual + 0.2 * values
            parameter.copy_(values.to(torch.bfloat16))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_((torch.randn(buffer.shape, generator=generator) * 0.5).to(torch.bfloat16))
    return model.eval()


def exact_attention(config: PretrainedConfig) -> str:
    """transformers' attention that computes what the model is defined by: its eager one counts Falcon's ALiBi twice."""
    return "sdpa" if config.model_type == "falcon" else "eager"


def _stored_as_inputs_by_outputs(model: PreTrainedModel) -> set[str]:
    """Names of the matrices, or stacks of matrices, that are [.., in, out]."""
    names = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    if model.config.model_type in ("gpt_oss", "llama4_text"):
        names |= {name for name, _ in model.named_parameters() if name.endswith(("s.gate_up_proj", "s.down_proj"))}
    return names


def load_folder(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    weights: WeightOptions | None = None,
) -> Decoder:
    return load_folder_with_note(folder, dtype, backend, weights)[0]


def load_folder_with_note(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    weights: WeightOptions | None = None,
) -> tuple[Decoder, str]:
    """The decoder, and the line for the operator on how its weights are held."""
    config = read_json_config(folder / "config.json")
    family = family_of(config.architecture())
    decoder, held = build_decoder(
        family.describe(config),
        SafetensorsCheckpoint(folder),
        family.names,
        backend or ReferenceAttention(),
        dtype,
        torch.device("cpu"),
        lambda *_: None,
        weights,
    )
    return decoder, held.note


def load_gguf(
    paths: list[Path],
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    *,
    keeps_quantised: bool = True,
) -> Decoder:
    return load_gguf_with_note(paths, dtype, backend, WeightOptions(keeps_quantised=keeps_quantised))[0]


def load_gguf_with_note(
    paths: list[Path],
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    weights: WeightOptions | None = None,
) -> tuple[Decoder, str]:
    """The decoder, and the line for the operator on how its weights are held."""
    checkpoint = GGUFCheckpoint(paths)
    config = gguf_config(checkpoint)
    family = family_of(config.architecture())
    decoder, held = build_decoder(
        family.describe(config),
        checkpoint,
        family.gguf_names,
        backend or ReferenceAttention(),
        dtype,
        torch.device("cpu"),
        lambda *_: None,
        weights,
    )
    return decoder, held.note


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    kind: gguf.GGMLQuantizationType | Callable[[str], gguf.GGMLQuantizationType],
    *,
    split_max_tensors: int = 0,
) -> None:
    """Write the model as llama.cpp's converter does, matrices in format `kind`, or each in what `kind` gives its name.

    Puts what the file holds, dequantised, into `model`, so that the model is the file's truth.
    """
    config = model.config
    name = config.model_type
    arch = gguf.MODEL_ARCH_NAMES
    names = gguf.get_tensor_name_map(
        next(key for key, value in arch.items() if value == name), config.num_hidden_layers
    )
    writer = gguf.GGUFWriter(path, name, split_max_tensors=split_max_tensors)
    _add_metadata(writer, config)
    state = model.state_dict()
    for hf_name, tensor in state.items():
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        is_conv1d = hf_name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        values = (tensor.t() if is_conv1d else tensor).contiguous().numpy()
        heads = _permuted_heads(config, hf_name)
        if heads:
            values = _interleave(values, heads)
        held = gguf.GGMLQuantizationType.F32
        if values.ndim == 2:
            held = kind(hf_name) if callable(kind) else kind
        packed = random_k_blocks(values, held) if held in _K_FORMATS else gguf.quants.quantize(values, held)
        writer.add_tensor(names.get_name(hf_name, (".weight", ".bias")), packed, raw_dtype=held)
        truth = gguf.quants.dequantize(packed, held)
        truth = _interleave(truth, heads, inverse=True) if heads else truth
        tensor.copy_(torch.from_numpy(truth.T.copy() if is_conv1d else truth))
    if (factors := _rope_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_k_blocks(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Blocks of a K format that use all bits of codes and scales, [rows, bytes]; gguf can read such formats only.

    The numbers they hold are random, with mean 0 and the standard deviation of `values` [rows, columns].
    """
    columns, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(values.size)
    raw = rng.integers(0, 256, (values.shape[0], values.shape[1] // columns, size), dtype=np.uint8)
    scale_at, middle, spread = _K_FORMATS[kind]
    halves = np.array([values.std() / spread, values.std() / spread * middle], np.float16)
    if middle:  # d, dmin, 6-bit scales, 6-bit minima, bits of both: d * scale * (code - middle) if the two are equal
        raw[..., :4] = halves.view(np.uint8)
        raw[..., 8:12] = raw[..., 4:8]
        raw[..., 12:16] = raw[..., 12:16] % 16 * 17
    else:
        raw[..., scale_at : scale_at + 2] = halves[:1].view(np.uint8)
    return raw.reshape(values.shape[0], -1)


# Where d stands, the code that means zero (less the minimum), and the deviation of scale * code for random bits.
_K_FORMATS = {
    gguf.GGMLQuantizationType.Q4_K: (0, 7.5, 168.0),
    gguf.GGMLQuantizationType.Q5_K: (0, 15.5, 337.0),
    gguf.GGMLQuantizationType.Q6_K: (208, 0.0, 1366.0),
}


def _add_metadata(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    if config.model_type == "granite":
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])


def _permuted_heads(config: PretrainedConfig, name: str) -> int:
    """Heads whose rows the format interleaves; 0 for tensors that it keeps."""
    if config.model_type not in ("llama", "granite"):
        return 0
    ends: Mapping[str, int] = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }
    return next((heads for end, heads in ends.items() if f"{end}." in name), 0)


def _interleave(values: np.ndarray, heads: int, *, inverse: bool = False) -> np.ndarray:
    halves = (heads, -1, 2) if inverse else (heads, 2, values.shape[0] // heads // 2)
    return values.reshape(*halves, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _rope_factors(config: PretrainedConfig) -> np.ndarray | None:
    """Llama 3's scaling as the converter states it: what to divide each frequency by."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    dim = config.hidden_size // config.num_attention_heads
    frequencies = rope["rope_theta"] ** -(np.arange(0, dim, 2, dtype=np.float32) / dim)
    factors = []
    for length in 2 * np.pi / frequencies:
        turns = rope["original_max_position_embeddings"] / length
        if turns > rope["high_freq_factor"]:
            factors.append(1.0)
        elif turns < rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1.0 / ((1.0 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)
