"""Bamba: state spaces in most layers, Llama's attention in the others."""

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.families import jamba, llama
from models.families.registry import Family
from models.families.state_spaces import space_names, with_spaces


def describe(config: HFConfig) -> DecoderSpec:
    spec = llama.describe(config, llama.Defaults(rotary_share=0.5, eps=1e-5))
    attending = config.token_ids("attn_layer_indices")
    kinds = ["attention" if index in attending else "space" for index in range(len(spec.layers))]
    return with_spaces(config, spec, kinds)


FAMILY = Family(describe, {**jamba.DENSE_NAMES, **space_names("mamba")})
