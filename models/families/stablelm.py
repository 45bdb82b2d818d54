"""StableLM: Llama with LayerNorm and partial rotary embedding; some sizes have parallel sublayers or q and k norms."""

import dataclasses
from typing import Any

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import llama, qwen2
from models.families.name_map import To
from models.families.registry import Family
from models.families.transforms import as_rows


def describe(config: HFConfig) -> DecoderSpec:
    eps = config.number("layer_norm_eps", 1e-5)
    norm = NormSpec(NormKind.LAYER, eps, has_bias=True)
    is_parallel = config.boolean("use_parallel_residual", False)
    qk_norm = None
    if config.boolean("qk_layernorm", False):
        qk_norm = QKNormSpec(NormSpec(NormKind.LAYER, eps), QKNormScope.HEAD_OWN_WEIGHTS)

    def adapt(_: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(
            layer,
            norm=norm,
            placement=NormPlacement.PARALLEL_ONE_NORM if is_parallel else NormPlacement.PRE,
            has_qkv_bias=config.boolean("use_qkv_bias", False),
            qk_norm=qk_norm,
        )

    return dataclasses.replace(
        llama.describe(config, llama.Defaults(rotary_share=0.25)).map_layers(adapt), final_norm=norm
    )


NAMES = {
    **llama.NAMES,
    # each head's norm is a separate tensor
    "model.layers.{i}.self_attn.q_layernorm.norms.{e}.*": To("layers.{i}.attn.q_norm", "{e}", as_rows),
    "model.layers.{i}.self_attn.k_layernorm.norms.{e}.*": To("layers.{i}.attn.k_norm", "{e}", as_rows),
}

GGUF_NAMES = {
    **qwen2.GGUF_NAMES,
    "blk.{i}.attn_q_norm.*": To("layers.{i}.attn.q_norm"),
    "blk.{i}.attn_k_norm.*": To("layers.{i}.attn.k_norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = common_fields(file)
    has_second_norm = "blk.0.ffn_norm.weight" in file.tensors
    return {
        **fields,
        "use_qkv_bias": fields["attention_bias"],
        "attention_bias": False,
        "use_parallel_residual": file.boolean("use_parallel_residual", not has_second_norm),
        "qk_layernorm": "blk.0.attn_q_norm.weight" in file.tensors,
    }


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
