"""DeepSeek V3.2 (FAMILY) and GLM-5 (GLM): DeepSeek V3 with indexers, which choose the positions of attention."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from models.architecture.attention import IndexerSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import check_layers_listed, num_layers
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import layer_types
from models.errors import CheckpointError
from models.families import deepseek, routed_experts
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import unpermute_index

_DEFAULTS = {**routed_experts.V3_DEFAULTS, "index_n_heads": 64}
_GLM_DEFAULTS = {
    **routed_experts.UNGROUPED_DEFAULTS,
    "first_k_dense_replace": 3,
    "rms_norm_eps": 1e-5,
    "index_n_heads": 32,
    "index_topk_freq": 1,
}


def describe(config: HFConfig, defaults: Mapping[str, Any]) -> DecoderSpec:
    config.integer("q_lora_rank")  # of the latent that the indexer's queries are made of, too
    spec = deepseek.describe(config, defaults)
    # The second name was transformers' before.
    layer_types(config, len(spec.layers), dict.fromkeys(("indexed_attention", "deepseek_sparse_attention"), ""))
    has_indexer = _has_indexer(config, len(spec.layers), defaults)
    indexer = IndexerSpec(
        num_heads=config.integer("index_n_heads", defaults["index_n_heads"]),
        head_dim=config.integer("index_head_dim", 128, minimum=config.integer("qk_rope_head_dim")),
        topk=config.integer("index_topk", 2048),
        norm=NormSpec(NormKind.LAYER, 1e-6, has_bias=True),
    )

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        choice = {"indexer": indexer} if has_indexer[index] else {"reuses_choice": True}
        return dataclasses.replace(layer, mixer=dataclasses.replace(layer.attention, **choice))

    return spec.map_layers(adapt)


def _has_indexer(config: HFConfig, num_layers: int, defaults: Mapping[str, Any]) -> list[bool]:
    """Return whether each layer has an indexer; the others see what the last one before them chose (GLM-5.2).

    `indexer_types` says so, or a letter for each layer in `index_topk_pattern`; else every `index_topk_freq`-th layer
    has one, after the first layers.
    """
    if "index_topk_freq" not in defaults:
        return [True] * num_layers
    pattern = config.raw("index_topk_pattern")
    if pattern is not None and not config.has("indexer_types"):
        letters = pattern if isinstance(pattern, list | str) else []
        types = [{"F": "full", "S": "shared"}.get(str(letter), str(letter)) for letter in letters]
        config = config.with_fields({"indexer_types": types})
    kinds = layer_types(config, num_layers, {"full": "full", "shared": "shared"}, "indexer_types")
    if kinds is None:
        step = config.integer("index_topk_freq", defaults["index_topk_freq"])
        offset = config.integer("index_skip_topk_offset", 2, minimum=0)
        return [max(index - offset + 1, 0) % step == 0 for index in range(num_layers)]
    if kinds[0] != "full":
        raise CheckpointError(f"{config.source}: the first of indexer_types is {kinds[0]!r}; it must be 'full'")
    return [kind == "full" for kind in kinds]


_INDEX = "model.layers.{i}.self_attn.indexer."
NAMES = {
    **deepseek.NAMES,
    f"{_INDEX}wq_b.*": To("layers.{i}.attn.indexer.q_up"),
    f"{_INDEX}wk.*": To("layers.{i}.attn.indexer.k"),
    f"{_INDEX}k_norm.*": To("layers.{i}.attn.indexer.k_norm"),
    f"{_INDEX}weights_proj.*": To("layers.{i}.attn.indexer.weights"),
}
GGUF_NAMES = {
    **deepseek.GGUF_NAMES,
    "blk.{i}.indexer.attn_q_b.*": NAMES[f"{_INDEX}wq_b.*"],
    "blk.{i}.indexer.attn_k.*": NAMES[f"{_INDEX}wk.*"],
    "blk.{i}.indexer.k_norm.*": NAMES[f"{_INDEX}k_norm.*"],
    "blk.{i}.indexer.proj.*": NAMES[f"{_INDEX}weights_proj.*"],
}


def _in_pairs(names: dict[str, To | tuple[To, ...] | None]) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for indexers whose rotary pairs are neighbors (2d, 2d + 1), as in the layer's own heads."""

    def changed(to: To | tuple[To, ...] | None) -> To | tuple[To, ...] | None:
        is_rotated = isinstance(to, To) and to.module.endswith((".indexer.q_up", ".indexer.k", ".indexer.k_norm"))
        return dataclasses.replace(to, transform=unpermute_index) if isinstance(to, To) and is_rotated else to

    return {pattern: changed(to) for pattern, to in names.items()}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    count, flags = num_layers(file), file.raw("attention.indexer.types")
    if isinstance(flags, list):
        check_layers_listed(file, "attention.indexer.types", flags)
    else:  # files of GLM-5.2 may leave them out
        flags = [f"blk.{layer}.indexer.attn_k.weight" in file.tensors for layer in range(count)]
    return {
        "indexer_types": ["full" if flag else "shared" for flag in flags[:count]],
        **deepseek.gguf_fields(file),
        "index_n_heads": file.integer("attention.indexer.head_count"),
        "index_head_dim": file.integer("attention.indexer.key_length"),
        "index_topk": file.integer("attention.indexer.top_k"),
    }


FAMILY = Family(functools.partial(describe, defaults=_DEFAULTS), NAMES, GGUF_NAMES, gguf_fields)
GLM = Family(functools.partial(describe, defaults=_GLM_DEFAULTS), _in_pairs(NAMES), _in_pairs(GGUF_NAMES), gguf_fields)
