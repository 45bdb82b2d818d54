"""Gemma 1, 2 and 3 (text): norms stored minus 1, scaled embeddings, GeGLU; from 2 on sandwich norms and windows.

Longer than a page because of three generations, each based on the one before.
"""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.checkpoints.gguf.fields import common_fields, window_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig, quote_value
from models.config.layers import sliding_windows
from models.config.rope import ropes_by_type
from models.errors import UnsupportedModelError
from models.families import llama, qwen2, qwen3
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import plus_one


def describe_gemma(config: HFConfig) -> DecoderSpec:
    check_is_decoder(config)
    spec = llama.describe(with_activation(config), llama.Defaults(head_dim=256, has_tied_head=True))
    return dataclasses.replace(spec, embedding_scale=spec.hidden_size**0.5)


def check_is_decoder(config: HFConfig) -> None:
    """Raise UnsupportedModelError for a model whose text attends both ways; "vision" is about images alone."""
    value = config.raw("use_bidirectional_attention")
    if value not in (None, False, "vision"):
        raise UnsupportedModelError(
            f"{config.source}: use_bidirectional_attention {quote_value(value)} is not supported; this is not a decoder"
        )


def describe_gemma2(config: HFConfig) -> DecoderSpec:
    spec = describe_gemma(config)
    windows = sliding_windows(config, len(spec.layers), is_windowed=lambda index: index % 2 == 0, default=4096)
    return _sandwiched(config, spec, windows, (50.0, 30.0))


def describe_gemma3(config: HFConfig) -> DecoderSpec:
    """Describe Gemma 3: norms of q and k instead of soft caps; five of six layers have a window and a smaller theta."""
    spec = describe_gemma(config)
    pattern = config.integer("sliding_window_pattern", 6)
    windows = sliding_windows(
        config, len(spec.layers), is_windowed=lambda index: (index + 1) % pattern != 0, default=4096
    )
    ropes = ropes_by_type(
        config, spec.layers[0].attention.head_dim, window_theta="rope_local_base_freq", default_theta=1e6
    )

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        kind = "full_attention" if windows[index] is None else "sliding_attention"
        return dataclasses.replace(layer, qk_norm=QKNormSpec(layer.norm), rope=ropes[kind])

    return _sandwiched(config, spec, windows, (None, None)).map_layers(adapt)


def _sandwiched(
    config: HFConfig, spec: DecoderSpec, windows: list[int | None], caps: tuple[float | None, float | None]
) -> DecoderSpec:
    """Return `spec` with sandwich norms and windows. caps: default soft caps of attention scores and of logits."""

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        attention = dataclasses.replace(
            layer.attention,
            scale=config.number("query_pre_attn_scalar", 256) ** -0.5,
            logit_softcap=soft_cap(config, "attn_logit_softcapping", caps[0]),
            sliding_window=windows[index],
        )
        return dataclasses.replace(layer, mixer=attention, placement=NormPlacement.SANDWICH)

    cap = soft_cap(config, "final_logit_softcapping", caps[1])
    return dataclasses.replace(spec.map_layers(adapt), logit_softcap=cap)


def with_activation(config: HFConfig) -> HFConfig:
    """Set `hidden_act` from `hidden_activation` or `hidden_act`; Gemma's "gelu" means the tanh approximation."""
    config = config.renamed({"hidden_act": "hidden_activation"})
    name = config.text("hidden_act", "gelu_pytorch_tanh")
    return config.with_fields({"hidden_act": "gelu_pytorch_tanh" if name == "gelu" else name})


def soft_cap(config: HFConfig, name: str, default: float | None) -> float | None:
    """Return the soft cap in the field `name`: `default` if the field is absent, None if it is null."""
    if config.has(name):
        return config.number(name)
    return None if config.is_null(name) else default


SHIFTED_NORMS = {
    "model.layers.{i}.input_layernorm.*": To("layers.{i}.attn_norm", transform=plus_one),
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.mlp_norm", transform=plus_one),
    "model.norm.*": To("norm", transform=plus_one),
}
NAMES = {**llama.NAMES, **SHIFTED_NORMS}

NAMES_2 = {
    **NAMES,
    "model.layers.{i}.post_attention_layernorm.*": To("layers.{i}.attn_post_norm", transform=plus_one),
    "model.layers.{i}.pre_feedforward_layernorm.*": To("layers.{i}.mlp_norm", transform=plus_one),
    "model.layers.{i}.post_feedforward_layernorm.*": To("layers.{i}.mlp_post_norm", transform=plus_one),
    "model.layers.{i}.self_attn.q_norm.*": To("layers.{i}.attn.q_norm", transform=plus_one),
    "model.layers.{i}.self_attn.k_norm.*": To("layers.{i}.attn.k_norm", transform=plus_one),
}

# The converter adds the 1.
GGUF_NAMES = qwen2.GGUF_NAMES
GGUF_NAMES_2 = {
    **qwen3.GGUF_NAMES,
    "blk.{i}.post_attention_norm.*": To("layers.{i}.attn_post_norm"),
    "blk.{i}.post_ffw_norm.*": To("layers.{i}.mlp_post_norm"),
}


def gguf_gemma(file: GGUFMetadata) -> dict[str, Any]:
    return {**common_fields(file), "hidden_act": "gelu_pytorch_tanh"}


def gguf_gemma2(file: GGUFMetadata) -> dict[str, Any]:
    fields = gguf_gemma(file)
    return {
        **fields,
        "query_pre_attn_scalar": _score_divisor(fields, largest=46),
        "attn_logit_softcapping": file.scale("attn_logit_softcapping") or 50.0,
        "final_logit_softcapping": file.scale("final_logit_softcapping") or 30.0,
        "sliding_window": file.size("attention.sliding_window") or 4096,
    }


def gguf_gemma3(file: GGUFMetadata) -> dict[str, Any]:
    fields = gguf_gemma(file)
    return {
        **fields,
        **window_fields(file),
        "query_pre_attn_scalar": _score_divisor(fields, largest=62),
        "final_logit_softcapping": file.scale("final_logit_softcapping"),
        "rope_parameters": rope_parameters_by_layer(file, fields["head_dim"], window_theta=1e4),
    }


def _score_divisor(fields: dict[str, Any], *, largest: int) -> int:
    """Return the number by whose square root attention scores are divided: the head size, except in the largest model.

    Files do not state it. largest: number of layers of the largest model.
    """
    if fields["num_hidden_layers"] == largest:
        return int(fields["hidden_size"] // fields["num_attention_heads"])
    return int(fields["head_dim"])


GEMMA = Family(describe_gemma, NAMES, GGUF_NAMES, gguf_gemma)
GEMMA2 = Family(describe_gemma2, NAMES_2, GGUF_NAMES_2, gguf_gemma2)
GEMMA3 = Family(describe_gemma3, NAMES_2, GGUF_NAMES_2, gguf_gemma3)


def _describe_multimodal(config: HFConfig) -> DecoderSpec:
    defaults = {  # fields that the hub's files of 4B leave out
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    }
    return describe_gemma3(config.with_defaults(defaults))


GEMMA3_MULTIMODAL = dataclasses.replace(GEMMA3, describe=_describe_multimodal)
