"""Tiny random models of transformers, and checkpoints loaded by our loader."""

from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)
from transformers.pytorch_utils import Conv1D

from models.attention.base import AttentionBackend
from models.attention.reference import ReferenceAttention
from models.compute import ComputeConfig
from models.decoder import Decoder
from models.kernels.ops import Operations, select_operations
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.sources.resolve import ModelFiles
from models.training.attention import TrainAttention
from models.training.operations import TrainOperations
from tests.helpers.rwkv7 import RWKV7ForCausalLM

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
_ROUTERS = ("gate.weight", "gate.wg.weight", "router.weight", "router.proj.weight", "layer.weight")
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


COMPUTED = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")  # buffers by the configuration alone


def random_model(config: PretrainedConfig, seed: int = 0, kind: type[PreTrainedModel] | None = None) -> PreTrainedModel:
    """A transformers model in fp32 whose logits have a standard deviation near 1. kind: by default the one that
    generates.

    The default initialization is so small that every layer is nearly the identity, which hides errors. Weights are
    rounded to bf16, so that fp32 and bf16 runs of one checkpoint differ in their arithmetic only.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # some parameters keep a part of what they begin with
        model = (kind or model_class(config))._from_config(config, attn_implementation=exact_attention(config))
    generator = torch.Generator().manual_seed(seed)
    turned = _stored_as_inputs_by_outputs(model)
    stored = [item for item in (*model.named_parameters(), *model.named_buffers()) if item[0] in model.state_dict()]
    with torch.no_grad():
        for name, tensor in stored:
            if not tensor.is_floating_point() or name.endswith(COMPUTED):
                continue
            values = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() >= 2:
                values *= tensor.shape[-2 if name in turned else -1] ** -0.5
                if name.endswith(_ROUTERS) and len(tensor) < 16:
                    values *= ROUTER_SPREAD.get(config.get_text_config().model_type, 4.0)
            elif name.endswith("bias"):
                values *= 0.5 if name.endswith("correction_bias") else 0.3
            elif name.endswith("A_log"):
                values -= 2.0  # states that last for some ten tokens
            else:
                values = tensor + 0.2 * values  # norms begin with ones, or zeros where one is added to them
            tensor.copy_(values.to(torch.bfloat16))
    return model.eval()


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Save a model; transformers 5.24 would write layers of some language models under the names of their towers."""
    is_mixed_up = model.config.model_type in ("kimi_k25", "qianfan_ocr")
    model.save_pretrained(folder, save_original_format=not is_mixed_up)


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that generates text, also of a configuration that wraps a language model's."""
    if config.model_type == RWKV7ForCausalLM.config_class.model_type:
        return RWKV7ForCausalLM
    wraps = config.get_text_config() is not config
    mapping = MODEL_FOR_MULTIMODAL_LM_MAPPING if wraps else MODEL_FOR_CAUSAL_LM_MAPPING
    if wraps and type(config) not in mapping:  # models that hear
        mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    found: type[PreTrainedModel] = mapping[type(config)]
    return found


def exact_attention(config: PretrainedConfig) -> str:
    """transformers' attention that computes what the model is defined by: its eager one counts Falcon's ALiBi twice."""
    return "sdpa" if config.model_type == "falcon" else "eager"


def _stored_as_inputs_by_outputs(model: PreTrainedModel) -> set[str]:
    """Names of the matrices, or stacks of matrices, that are [.., in, out]."""
    names = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    if model.config.get_text_config().model_type in ("gpt_oss", "llama4_text"):
        names |= {name for name, _ in model.named_parameters() if name.endswith(("s.gate_up_proj", "s.down_proj"))}
    return names


def load_folder(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    weights: WeightOptions | None = None,
    ops: Operations | None = None,
    kv_dtype: torch.dtype | None = None,
) -> Decoder:
    """ops: those of this machine's CPU by default. kv_dtype: `dtype` by default."""
    return _built(ModelFiles(folder, (), "m"), cpu_compute(dtype, backend, ops, kv_dtype), weights)[0]


def load_folder_with_note(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    weights: WeightOptions | None = None,
) -> tuple[Decoder, str]:
    """The decoder, and the line for the operator on how its weights are held."""
    return _built(ModelFiles(folder, (), "m"), cpu_compute(dtype, backend), weights)


def load_gguf(
    paths: list[Path],
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    *,
    keeps_quantized: bool = True,
) -> Decoder:
    return load_gguf_with_note(paths, dtype, backend, WeightOptions(keeps_quantized=keeps_quantized))[0]


def load_gguf_with_note(
    paths: list[Path],
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    weights: WeightOptions | None = None,
) -> tuple[Decoder, str]:
    """The decoder, and the line for the operator on how its weights are held."""
    return _built(ModelFiles(None, tuple(paths), "m"), cpu_compute(dtype, backend), weights)


def cpu_compute(
    dtype: torch.dtype = torch.float32,
    backend: AttentionBackend | None = None,
    ops: Operations | None = None,
    kv_dtype: torch.dtype | None = None,
) -> ComputeConfig:
    """Computing on this machine's CPU. backend: the reference by default. ops: the CPU's by default. kv_dtype: `dtype`
    by default."""
    ops = ops or select_operations(dtype, torch.device("cpu"))
    if isinstance(backend, TrainAttention):
        ops = TrainOperations(ops)
    return ComputeConfig(backend or ReferenceAttention(), ops, dtype, kv_dtype or dtype, torch.device("cpu"))


def _built(files: ModelFiles, compute: ComputeConfig, weights: WeightOptions | None) -> tuple[Decoder, str]:
    decoder, held = build_decoder(open_model(files), compute, weights or WeightOptions(), lambda *_: None)
    return decoder, held.note
