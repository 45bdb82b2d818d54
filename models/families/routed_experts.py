"""DeepSeek's experts, which many families have: routers of groups, shared experts, and dense layers before."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import GroupScore, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import sparse_layers
from models.errors import UnsupportedModelError
from models.families.experts import (
    GGUF_EXPERT_NAMES,
    expert_names,
    gguf_expert_fields,
    gguf_mlp_types,
    gguf_scoring,
    shared_names,
)
from models.families.name_map import To
from models.families.transforms import as_vector

# transformers' defaults for fields that a configuration leaves out; None: the field is required.
V2_DEFAULTS = {
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "num_experts_per_tok": None,
    "n_group": None,
    "topk_group": None,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "n_shared_experts": 2,
}
# of V3: sigmoids, and a correction of scores for the choice alone
SIGMOID = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
V3_DEFAULTS = {
    **SIGMOID,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
    "n_shared_experts": 1,
}
# of V3's experts without groups, as most later families have them, after one dense layer
UNGROUPED = {**SIGMOID, "n_group": 1, "topk_group": 1, "norm_topk_prob": True}
UNGROUPED_DEFAULTS = {**V3_DEFAULTS, **UNGROUPED, "first_k_dense_replace": 1}
_SCORES = {"softmax": RouterScore.SOFTMAX, "sigmoid": RouterScore.SIGMOID}


def with_experts(config: HFConfig, spec: DecoderSpec, defaults: Mapping[str, Any]) -> DecoderSpec:
    """Return `spec` with experts after the dense layers, by DeepSeek's fields.

    defaults: values of fields that the configuration leaves out, such as UNGROUPED_DEFAULTS.
    """
    is_sparse = sparse_layers(config, len(spec.layers), defaults["first_k_dense_replace"])
    moe = _experts(config, defaults) if any(is_sparse) else None
    return spec.map_layers(
        lambda index, layer: dataclasses.replace(layer, mlp=moe if moe and is_sparse[index] else layer.mlp)
    )


def _experts(config: HFConfig, defaults: Mapping[str, Any]) -> MoESpec:
    size, activation = config.integer("moe_intermediate_size"), config.activation("hidden_act")
    default_shared = 0 if config.is_null("n_shared_experts") else defaults["n_shared_experts"]
    num_shared = config.integer("n_shared_experts", default_shared, minimum=0)
    return MoESpec(
        num_experts=config.integer("n_routed_experts"),
        expert=MLPSpec(size, activation, is_gated=True),
        router=router(config, defaults),
        shared=MLPSpec(num_shared * size, activation, is_gated=True) if num_shared else None,
    )


def router(config: HFConfig, defaults: Mapping[str, Any]) -> RouterSpec:
    """Return the router by DeepSeek's fields. defaults: as in `with_experts`."""
    score = config.text("scoring_func", defaults["scoring_func"])
    method = config.text("topk_method", defaults["topk_method"])
    if score not in _SCORES or method not in ("greedy", "group_limited_greedy", "noaux_tc"):
        raise UnsupportedModelError(
            f"{config.source}: scoring_func {score!r} with topk_method {method!r} is not supported; supported are "
            "'softmax' and 'sigmoid' with 'greedy', 'group_limited_greedy' or 'noaux_tc'"
        )
    is_grouped = method != "greedy"
    return RouterSpec(
        score=_SCORES[score],
        experts_per_token=config.integer("num_experts_per_tok", defaults["num_experts_per_tok"]),
        # No V2 on the hub sets this. transformers' V2 would ignore it, and DeepSeek's own code would not scale then.
        renormalizes=config.boolean("norm_topk_prob", defaults["norm_topk_prob"]),
        has_correction=method == "noaux_tc",
        num_groups=config.integer("n_group", defaults["n_group"]) if is_grouped else 1,
        groups_per_token=config.integer("topk_group", defaults["topk_group"]) if is_grouped else 1,
        group_score=GroupScore.BEST_TWO if method == "noaux_tc" else GroupScore.BEST,
        scale=config.number("routed_scaling_factor", defaults["routed_scaling_factor"]),
    )


_CORRECTION = To("layers.{i}.mlp.router", None, as_vector, "correction")  # ERNIE's is a matrix of one row


def names_in(
    block: str, *, router: str = "gate", correction: str = "gate.e_score_correction_bias", **matrices: str
) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for routers, experts and shared experts. block, matrices: as in `expert_names`."""
    return {
        f"model.layers.{{i}}.{block}.{router}.weight": To("layers.{i}.mlp.router"),
        f"model.layers.{{i}}.{block}.{correction}": _CORRECTION,
        **expert_names(block, **matrices),
        **shared_names(block, name="shared_experts"),
    }


NAMES = names_in("mlp")
GGUF_NAMES = {**GGUF_EXPERT_NAMES, "blk.{i}.exp_probs_b.bias": _CORRECTION}


def gguf_fields(file: GGUFMetadata, *, scoring: str = "softmax") -> dict[str, Any]:
    """Return the fields that `with_experts` reads. scoring: what the architecture's files mean if they do not say.

    Routers that correct scores have sigmoids, also in files that do not say so (GLM-4.7-Flash).
    """
    num_groups = file.size("expert_group_count") or 1
    is_corrected = any(name.endswith("exp_probs_b.bias") for name in file.tensors)
    return {
        **gguf_expert_fields(file),
        "n_routed_experts": file.integer("expert_count"),
        "n_shared_experts": file.size("expert_shared_count") or 0,
        "first_k_dense_replace": file.integer("leading_dense_block_count", 0, minimum=0),
        "mlp_layer_types": gguf_mlp_types(file),
        "scoring_func": gguf_scoring(file, default="sigmoid" if is_corrected else scoring),
        "topk_method": "noaux_tc" if is_corrected else "greedy" if num_groups == 1 else "group_limited_greedy",
        "n_group": num_groups,
        "topk_group": file.size("expert_group_used_count") or 1,
        "norm_topk_prob": file.boolean("expert_weights_norm", False),
        "routed_scaling_factor": file.scale("expert_weights_scale") or 1.0,
    }
