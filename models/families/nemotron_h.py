"""Nemotron-H and Nemotron 3: each layer is a state space, attention without positions, an MLP or experts alone."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import StateSpaceSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import listed_kinds
from models.errors import CheckpointError
from models.families import llama, mamba, nemotron_h_moe, qwen3
from models.families.name_map import IGNORE, To, with_replaced
from models.families.registry import Family
from models.families.state_spaces import gguf_space_fields, gguf_space_names, mamba_space, require_silu, space_names
from models.families.sublayers import attention_names

_KINDS = {
    **{"M": "space", "mamba": "space", "linear_attention": "space"},
    **{"*": "attention", "attention": "attention", "full_attention": "attention"},
    **{"-": "mlp", "mlp": "mlp", "E": "moe", "moe": "moe"},
}
_SPACE_FIELDS = {
    **mamba.SPACE_FIELDS,
    "mamba_n_heads": "mamba_num_heads",
    "mamba_d_head": "mamba_head_dim",
    "mamba_d_state": "ssm_state_size",
}


def describe(config: HFConfig) -> DecoderSpec:
    kinds = _kinds(config)
    as_llama = {
        "rms_norm_eps": config.number("layer_norm_epsilon", 1e-5),
        "hidden_act": config.text("mlp_hidden_act", "relu2"),
        "num_hidden_layers": len(kinds),
        "intermediate_size": config.integer("intermediate_size") if "mlp" in kinds else 1,
    }
    spec = llama.describe(config.with_fields(as_llama), llama.Defaults(head_dim=128))
    space = _space(config, spec) if "space" in kinds else None
    moe = nemotron_h_moe.describe(config) if "moe" in kinds else None

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        mlp = dataclasses.replace(layer.dense_mlp, is_gated=False)
        sublayers = {"space": (space, None), "attention": (layer.mixer, None), "mlp": (None, mlp), "moe": (None, moe)}
        mixer, feed_forward = sublayers[kinds[index]]
        return dataclasses.replace(layer, mixer=mixer, mlp=feed_forward, rope=None)

    return spec.map_layers(adapt)


def _kinds(config: HFConfig) -> list[str]:
    """Return the kind of each layer, by a list of names, or by a letter each."""
    field = config.first("layers_block_type", "hybrid_override_pattern")
    listed = config.raw(field)
    if not isinstance(listed, list | str):
        raise CheckpointError(
            f"{config.source} has neither layers_block_type nor hybrid_override_pattern; {config.remedy}"
        )
    return listed_kinds(config, field, config.integer("num_hidden_layers", len(listed)), _KINDS)


def _space(config: HFConfig, spec: DecoderSpec) -> StateSpaceSpec:
    require_silu(config, "mamba_hidden_act")
    own = config.with_fields(mamba.SPACE_DEFAULTS).renamed(_SPACE_FIELDS)
    size = own.integer("mamba_n_heads", 128) * own.integer("mamba_d_head")
    return mamba_space(own.with_fields({"mamba_d_ssm": size}), spec.layers[0].norm)  # `expand` is not read


_LAYERS = {
    "model.layers.{i}.norm.*": To("layers.{i}.attn_norm", otherwise="layers.{i}.mlp_norm"),
    **space_names("mixer"),
    **attention_names("mixer"),
    **nemotron_h_moe.NAMES,
    "model.layers.{i}.mixer.up_proj.*": To("layers.{i}.mlp.up"),
    "model.layers.{i}.mixer.down_proj.*": To("layers.{i}.mlp.down"),
    "model.embeddings.*": To("embed"),
    "model.norm_f.*": To("norm"),
}
# As checkpoints have them. No layer has these names in transformers, by which adapters call them.
_STORED = {name: dataclasses.replace(to, when_present="backbone") for name, to in _LAYERS.items()}
NAMES = {"mtp.**": IGNORE, "lm_head.*": To("head"), **_LAYERS, **with_replaced("model.", "backbone.", _STORED)}

_GGUF_NAMES = {
    "blk.{x}.**": IGNORE,  # multi-token prediction
    **qwen3.GGUF_NAMES,
    **gguf_space_names(),
    **nemotron_h_moe.GGUF_NAMES,
    "blk.{i}.attn_norm.*": To("layers.{i}.attn_norm", otherwise="layers.{i}.mlp_norm"),
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.up"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads and feed-forward have a state space."""
    heads, sizes = (layer_counts(file, name) for name in ("attention.head_count_kv", "feed_forward_length"))
    has_experts = bool(file.size("expert_count"))
    scalars = with_largest(file, "attention.head_count_kv", "feed_forward_length")
    feed_forward = "moe" if has_experts else "mlp"
    return {
        **common_fields(scalars),
        **gguf_space_fields(file, _SPACE_FIELDS),
        **(nemotron_h_moe.gguf_fields(scalars) if has_experts else {}),
        "num_hidden_layers": len(heads),
        "layers_block_type": [
            "attention" if num_heads else feed_forward if size else "mamba"
            for num_heads, size in zip(heads, sizes, strict=True)
        ],
        "mlp_hidden_act": "relu2",
        "mlp_bias": any(name.endswith(("ffn_up.bias", "ffn_up_shexp.bias")) for name in file.tensors),
    }


FAMILY = Family(describe, NAMES, _GGUF_NAMES, gguf_fields)
