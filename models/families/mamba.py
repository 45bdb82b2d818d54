"""Mamba, FalconMamba and Mamba-2: a recurrence in every layer, no attention and no MLP."""

from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.architecture.recurrence import RecurrenceSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.families.name_map import Rules, To, with_replaced
from models.families.recurrent import GGUF_RECURRENT_NAMES, recurrent_decoder
from models.families.registry import Family
from models.families.state_spaces import (
    gguf_scan_fields,
    gguf_scan_names,
    gguf_space_fields,
    gguf_space_names,
    mamba_scan,
    mamba_space,
    require_silu,
    scan_names,
    space_names,
)

# names of fields in state_spaces.py -> Mamba's own
_FIELDS = {
    "mamba_expand": "expand",
    "mamba_d_state": "state_size",
    "mamba_d_conv": "conv_kernel",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_proj_bias": "use_bias",
}
_SCAN_FIELDS = {**_FIELDS, "mamba_d_ssm": "intermediate_size", "mamba_dt_rank": "time_step_rank"}
SPACE_FIELDS = {
    **_FIELDS,
    "mamba_n_heads": "num_heads",
    "mamba_d_head": "head_dim",
    "mamba_n_groups": "n_groups",
}
SPACE_DEFAULTS = {"mamba_d_head": 64, "mamba_n_groups": 8, "mamba_d_state": 128, "mamba_proj_bias": False}


def describe_mamba(config: HFConfig) -> DecoderSpec:
    return _describe(config, mamba_scan(config.renamed(_SCAN_FIELDS), None), has_tied_head=True)


def describe_falcon_mamba(config: HFConfig) -> DecoderSpec:
    norm = NormSpec(NormKind.RMS, config.number("mixer_rms_eps", 1e-6), has_weight=False)
    return _describe(config, mamba_scan(config.renamed(_SCAN_FIELDS), norm), has_tied_head=True)


def describe_mamba2(config: HFConfig) -> DecoderSpec:
    space = mamba_space(config.with_fields(SPACE_DEFAULTS).renamed(SPACE_FIELDS), _norm(config))
    return _describe(config, space, has_tied_head=False)


def _describe(config: HFConfig, recurrence: RecurrenceSpec, *, has_tied_head: bool) -> DecoderSpec:
    require_silu(config, "hidden_act")
    layers = (LayerSpec(recurrence, None, _norm(config)),) * config.num_layers("num_hidden_layers")
    return recurrent_decoder(config, layers, has_tied_head=has_tied_head)


def _norm(config: HFConfig) -> NormSpec:
    return NormSpec(NormKind.RMS, config.number("layer_norm_epsilon", 1e-5))


def _names(layers: Rules) -> Rules:
    return {
        "backbone.embeddings.*": To("embed"),
        "backbone.embedding.*": To("embed"),  # as the first checkpoints have it
        "backbone.norm_f.*": To("norm"),
        "backbone.layers.{i}.norm.*": To("layers.{i}.attn_norm"),
        **with_replaced("model.", "backbone.", layers),
        "lm_head.*": To("head"),
    }


_GGUF_SCAN_NAMES = {**GGUF_RECURRENT_NAMES, **gguf_scan_names()}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields that all three families read."""
    return {
        "hidden_size": file.integer("embedding_length"),
        "num_hidden_layers": file.num_layers("block_count"),
        "layer_norm_epsilon": file.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def gguf_mamba_fields(file: GGUFMetadata) -> dict[str, Any]:
    if file.boolean("ssm.dt_b_c_rms", False):
        raise UnsupportedModelError(f"{file.source}: ssm.dt_b_c_rms is true, which is FalconMamba's")
    return {**gguf_fields(file), **gguf_scan_fields(file, _SCAN_FIELDS)}


def gguf_falcon_mamba_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = gguf_fields(file)
    # llama.cpp norms with the layers' epsilon.
    return {**fields, **gguf_scan_fields(file, _SCAN_FIELDS), "mixer_rms_eps": fields["layer_norm_epsilon"]}


def gguf_mamba2_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {**gguf_fields(file), **gguf_space_fields(file, SPACE_FIELDS)}


MAMBA = Family(describe_mamba, _names(scan_names("mixer")), _GGUF_SCAN_NAMES, gguf_mamba_fields)
FALCON_MAMBA = Family(describe_falcon_mamba, _names(scan_names("mixer")), _GGUF_SCAN_NAMES, gguf_falcon_mamba_fields)
MAMBA2 = Family(
    describe_mamba2, _names(space_names("mixer")), {**GGUF_RECURRENT_NAMES, **gguf_space_names()}, gguf_mamba2_fields
)
