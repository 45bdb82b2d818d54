"""DeepSeek V3.2 (FAMILY) and GLM-5 (GLM): DeepSeek V3 with an indexer, which chooses the positions of attention."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from models.architecture.attention import IndexerSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.config.layers import layer_types
from models.errors import UnsupportedModelError
from models.families import deepseek
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import unpermute_index

_DEFAULTS = {**deepseek.V3_DEFAULTS, "index_n_heads": 64}
_GLM_DEFAULTS = {**deepseek.V3_DEFAULTS, "n_group": 1, "topk_group": 1, "rms_norm_eps": 1e-5, "index_n_heads": 32}


def describe(config: HFConfig, defaults: Mapping[str, Any]) -> DecoderSpec:
    config.integer("q_lora_rank")  # of the latent that the indexer's queries are made of, too
    spec = deepseek.describe(config, defaults)
    for name, kind in (("layer_types", "indexed_attention"), ("indexer_types", "full")):
        if others := set(layer_types(config, len(spec.layers), name) or ()) - {kind}:
            raise UnsupportedModelError(f"{config.source}: {name} has {min(others)!r}; supported is {kind!r}")
    indexer = IndexerSpec(
        num_heads=config.integer("index_n_heads", defaults["index_n_heads"]),
        head_dim=config.integer("index_head_dim", 128, minimum=config.integer("qk_rope_head_dim")),
        topk=config.integer("index_topk", 2048),
        norm=NormSpec(NormKind.LAYER, 1e-6, has_bias=True),
    )
    return spec.map_layers(
        lambda _, layer: dataclasses.replace(layer, mixer=dataclasses.replace(layer.attention, indexer=indexer))
    )


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
    return {
        **deepseek.gguf_fields(file),
        "index_n_heads": file.integer("attention.indexer.head_count"),
        "index_head_dim": file.integer("attention.indexer.key_length"),
        "index_topk": file.integer("attention.indexer.top_k"),
    }


FAMILY = Family(functools.partial(describe, defaults=_DEFAULTS), NAMES, GGUF_NAMES, gguf_fields)
GLM = Family(functools.partial(describe, defaults=_GLM_DEFAULTS), _in_pairs(NAMES), _in_pairs(GGUF_NAMES), gguf_fields)
