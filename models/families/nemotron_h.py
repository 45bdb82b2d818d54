"""Nemotron-H and Nemotron 3: each layer is a state space, attention without positions, an MLP or experts alone."""

import dataclasses
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import GroupScore, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import StateSpaceSpec
from models.checkpoints.gguf.fields import common_fields, layer_counts, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import listed_kinds
from models.errors import CheckpointError, UnsupportedModelError
from models.families import llama, qwen3
from models.families.experts import GGUF_EXPERT_NAMES, gguf_expert_fields, require_sigmoid
from models.families.name_map import IGNORE, To, with_prefixes
from models.families.registry import Family
from models.families.state_spaces import (
    checked_space,
    gguf_space_names,
    kernel_size,
    with_step_limit,
)
from models.families.transforms import conv_weight

_KINDS = {
    **{"M": "space", "mamba": "space", "linear_attention": "space"},
    **{"*": "attention", "attention": "attention", "full_attention": "attention"},
    **{"-": "mlp", "mlp": "mlp", "E": "moe", "moe": "moe"},
}


def describe(config: HFConfig) -> DecoderSpec:
    kinds = _kinds(config)
    activation = config.text("mlp_hidden_act", "relu2")
    as_llama = {
        "rms_norm_eps": config.number("layer_norm_epsilon", 1e-5),
        "hidden_act": activation,
        "num_hidden_layers": len(kinds),
        "intermediate_size": config.integer("intermediate_size") if "mlp" in kinds else 1,
    }
    spec = llama.describe(config.with_fields(as_llama), llama.Defaults(head_dim=128))
    space = _space(config, spec) if "space" in kinds else None
    moe = _experts(config) if "moe" in kinds else None

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        assert isinstance(layer.mlp, MLPSpec)
        mlp = dataclasses.replace(layer.mlp, is_gated=False)
        layer = dataclasses.replace(layer, rope=None)
        match kinds[index]:
            case "space":
                return dataclasses.replace(layer, mixer=space, mlp=None)
            case "attention":
                return dataclasses.replace(layer, mlp=None)
            case "moe":
                return dataclasses.replace(layer, mixer=None, mlp=moe)
        return dataclasses.replace(layer, mixer=None, mlp=mlp)

    return spec.map_layers(adapt)


def _kinds(config: HFConfig) -> list[str]:
    """Return the kind of each layer, by a list of names, or by a letter each."""
    field = config.first("layers_block_type", "hybrid_override_pattern")
    listed = config.raw(field)
    if not isinstance(listed, list | str):
        raise CheckpointError(
            f"{config.source} has neither layers_block_type nor hybrid_override_pattern; "
            "fetch the checkpoint's own configuration again"
        )
    return listed_kinds(config, field, config.integer("num_hidden_layers", len(listed)), _KINDS)


def _space(config: HFConfig, spec: DecoderSpec) -> StateSpaceSpec:
    if (activation := config.text("mamba_hidden_act", "silu")) != "silu":
        raise UnsupportedModelError(f"{config.source}: mamba_hidden_act is {activation!r}; supported is 'silu'")
    has_bias = config.boolean("use_bias", False)
    space = StateSpaceSpec(
        num_heads=config.integer("mamba_num_heads", 128),
        head_dim=config.integer("mamba_head_dim", 64),
        num_groups=config.integer("n_groups", 8),
        state_size=config.integer("ssm_state_size", 128),
        kernel_size=kernel_size(config, "conv_kernel"),
        norm=spec.layers[0].norm,
        has_conv_bias=config.boolean("use_conv_bias", True),
        has_in_bias=has_bias,
        has_out_bias=has_bias,
    )
    return checked_space(config, with_step_limit(config, space), space.inner_size)  # `expand` is not read


def _experts(config: HFConfig) -> MoESpec:
    activation, has_bias = config.activation("mlp_hidden_act", "relu2"), config.boolean("mlp_bias", False)
    shared_size = config.integer("moe_shared_expert_intermediate_size", 7688)
    return MoESpec(
        num_experts=config.integer("n_routed_experts", 8),
        expert=MLPSpec(config.integer("moe_intermediate_size", 7688), activation, is_gated=False),
        router=RouterSpec(
            score=RouterScore.SIGMOID,
            experts_per_token=config.integer("num_experts_per_tok", 2),
            renormalizes=config.boolean("norm_topk_prob", True),
            has_correction=True,
            num_groups=config.integer("n_group", 1),
            groups_per_token=config.integer("topk_group", 1),
            group_score=GroupScore.BEST_TWO,
            scale=config.number("routed_scaling_factor", 1.0),
        ),
        shared=MLPSpec(shared_size, activation, is_gated=False, has_up_bias=has_bias, has_down_bias=has_bias),
        latent_size=config.integer("moe_latent_size") if config.has("moe_latent_size") else None,
        has_latent_bias=has_bias,
    )


_LAYERS = {
    "layers.{i}.norm.*": To("layers.{i}.attn_norm", otherwise="layers.{i}.mlp_norm"),
    "layers.{i}.mixer.in_proj.*": To("layers.{i}.attn.in_proj"),
    "layers.{i}.mixer.conv1d.weight": To("layers.{i}.attn", None, conv_weight, "conv_weight"),
    "layers.{i}.mixer.conv1d.bias": To("layers.{i}.attn", parameter="conv_bias"),
    "layers.{i}.mixer.A_log": To("layers.{i}.attn", parameter="A_log"),
    "layers.{i}.mixer.dt_bias": To("layers.{i}.attn", parameter="dt_bias"),
    "layers.{i}.mixer.D": To("layers.{i}.attn", parameter="D"),
    "layers.{i}.mixer.norm.*": To("layers.{i}.attn.norm"),
    "layers.{i}.mixer.out_proj.*": To("layers.{i}.attn.out", when_present="layers.{i}.attn.in_proj"),
    "layers.{i}.mixer.q_proj.*": To("layers.{i}.attn.qkv", "q"),
    "layers.{i}.mixer.k_proj.*": To("layers.{i}.attn.qkv", "k"),
    "layers.{i}.mixer.v_proj.*": To("layers.{i}.attn.qkv", "v"),
    "layers.{i}.mixer.o_proj.*": To("layers.{i}.attn.out"),
    "layers.{i}.mixer.up_proj.*": To("layers.{i}.mlp.up"),
    "layers.{i}.mixer.down_proj.*": To("layers.{i}.mlp.down"),
    "layers.{i}.mixer.gate.weight": To("layers.{i}.mlp.router"),
    "layers.{i}.mixer.gate.e_score_correction_bias": To("layers.{i}.mlp.router", parameter="correction"),
    "layers.{i}.mixer.fc1_latent_proj.*": To("layers.{i}.mlp.latent_down"),
    "layers.{i}.mixer.fc2_latent_proj.*": To("layers.{i}.mlp.latent_up"),
    "layers.{i}.mixer.experts.{e}.up_proj.*": To("layers.{i}.mlp.experts.{e}.up"),
    "layers.{i}.mixer.experts.{e}.down_proj.*": To("layers.{i}.mlp.experts.{e}.down"),
    "layers.{i}.mixer.experts.up_proj": To("layers.{i}.mlp.experts.{e}.up"),
    "layers.{i}.mixer.experts.down_proj": To("layers.{i}.mlp.experts.{e}.down"),
    "layers.{i}.mixer.shared_experts.up_proj.*": To("layers.{i}.mlp.shared.up"),
    "layers.{i}.mixer.shared_experts.down_proj.*": To("layers.{i}.mlp.shared.down"),
    "embeddings.*": To("embed"),
    "norm_f.*": To("norm"),
}

# As checkpoints have them. No layer has these names in transformers, by which adapters call them.
_STORED = {name: dataclasses.replace(to, when_present="backbone") for name, to in _LAYERS.items()}

NAMES = {
    "mtp.**": IGNORE,
    "lm_head.*": To("head"),
    **with_prefixes(("model.",), _LAYERS),
    **with_prefixes(("backbone.",), _STORED),
}

# --- GGUF ------------------------------------------------------------------------------------------------------------

_GGUF_NAMES = {
    "blk.{x}.**": IGNORE,  # multi-token prediction
    **qwen3.GGUF_NAMES,
    **gguf_space_names(),
    **GGUF_EXPERT_NAMES,
    "blk.{i}.attn_norm.*": To("layers.{i}.attn_norm", otherwise="layers.{i}.mlp_norm"),
    "blk.{i}.ffn_up.*": To("layers.{i}.mlp.up"),
    "blk.{i}.ffn_up_exps.*": To("layers.{i}.mlp.experts.{e}.up"),
    "blk.{i}.ffn_up_shexp.*": To("layers.{i}.mlp.shared.up"),
    "blk.{i}.ffn_latent_down.*": To("layers.{i}.mlp.latent_down"),
    "blk.{i}.ffn_latent_up.*": To("layers.{i}.mlp.latent_up"),
    "blk.{i}.exp_probs_b.bias": To("layers.{i}.mlp.router", parameter="correction"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Layers without key heads and feed-forward have a state space."""
    heads, sizes = (layer_counts(file, name) for name in ("attention.head_count_kv", "feed_forward_length"))
    has_experts = bool(file.size("expert_count"))
    scalars = with_largest(file, "attention.head_count_kv", "feed_forward_length")
    feed_forward = "moe" if has_experts else "mlp"
    num_space_heads = file.integer("ssm.time_step_rank")
    return {
        **common_fields(scalars),
        **(_gguf_experts(file, scalars) if has_experts else {}),
        "num_hidden_layers": len(heads),
        "layers_block_type": [
            "attention" if num_heads else feed_forward if size else "mamba"
            for num_heads, size in zip(heads, sizes, strict=True)
        ],
        "layer_norm_epsilon": file.number(
            file.first("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
        ),
        "mlp_hidden_act": "relu2",
        "mlp_bias": any(name.endswith(("ffn_up.bias", "ffn_up_shexp.bias")) for name in file.tensors),
        "mamba_num_heads": num_space_heads,
        "mamba_head_dim": file.integer("ssm.inner_size") // num_space_heads,
        "n_groups": file.integer("ssm.group_count"),
        "ssm_state_size": file.integer("ssm.state_size"),
        "conv_kernel": file.integer("ssm.conv_kernel"),
        "use_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in file.tensors),
        "use_bias": any(name.endswith("ssm_in.bias") for name in file.tensors),
    }


def _gguf_experts(file: GGUFMetadata, scalars: GGUFMetadata) -> dict[str, Any]:
    require_sigmoid(file)
    experts = gguf_expert_fields(scalars)
    if (num_shared := file.integer("expert_shared_count", 1)) != 1:
        raise UnsupportedModelError(f"{file.source}: expert_shared_count is {num_shared}; supported is 1")
    return {
        **experts,
        "n_routed_experts": experts["num_experts"],
        "moe_shared_expert_intermediate_size": file.integer("expert_shared_feed_forward_length"),
        "moe_latent_size": file.size("moe_latent_size"),
        "norm_topk_prob": file.boolean("expert_weights_norm", False),
        "routed_scaling_factor": file.scale("expert_weights_scale"),
        "n_group": file.size("expert_group_count"),
        "topk_group": file.size("expert_group_used_count"),
    }


FAMILY = Family(describe, NAMES, _GGUF_NAMES, gguf_fields)
