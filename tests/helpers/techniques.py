"""techniques_of: what a DecoderSpec computes beyond what Llama does, in words, for docs/models.md."""

from collections.abc import Callable

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.recurrence import (
    GatedDeltaSpec,
    GeneralizedDeltaSpec,
    LinearUnitSpec,
    SelectiveScanSpec,
    ShortConvSpec,
    StateSpaceSpec,
)
from models.config.hf_config import HFConfig
from models.families.multimodal import find_family

_NOT_IN_TRANSFORMERS = {"rwkv7": "RWKV7ForCausalLM"}
_PARALLEL = (NormPlacement.PARALLEL, NormPlacement.PARALLEL_ONE_NORM)


def described(config: PretrainedConfig) -> tuple[str, DecoderSpec]:
    """The architecture of a configuration, and what its family makes of it. Imports no model of transformers."""
    is_multimodal = config.get_text_config() is not config
    names = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES if is_multimodal else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    architecture: str = names.get(config.model_type) or _NOT_IN_TRANSFORMERS[config.model_type]
    return architecture, described_as(architecture, config)


def described_as(architecture: str, config: PretrainedConfig) -> DecoderSpec:
    """The spec that the family of `architecture` makes of a configuration."""
    fields = {**config.to_dict(), "architectures": [architecture]}
    family, text = find_family(HFConfig(fields, architecture))
    return family.describe(text)


def techniques_of(spec: DecoderSpec) -> list[str]:
    """Techniques of any layer, in the order below."""
    attention = spec.attention_specs
    routers = [layer.experts.router for layer in spec.layers if layer.experts is not None]
    return [
        *(name for name, has in _WHOLE.items() if has(spec)),
        *(name for name, has in _ATTENTION.items() if any(map(has, attention))),
        *(name for name, has in _LAYER.items() if any(map(has, spec.layers))),
        *(name for name, has in _ROUTER.items() if any(map(has, routers))),
    ]


def _attention_layers(spec: DecoderSpec) -> list[LayerSpec]:
    return [layer for layer in spec.layers if isinstance(layer.mixer, AttentionSpec)]


def _head_sizes(spec: DecoderSpec) -> set[int]:
    return {attention.head_dim for attention in spec.attention_specs}


_WHOLE: dict[str, Callable[[DecoderSpec], bool]] = {
    "learned positions": lambda spec: spec.has_learned_positions,
    "layers without positions": lambda spec: len({layer.rope is None for layer in _attention_layers(spec)}) > 1,
    "key heads by layer": lambda spec: len({attention.num_kv_heads for attention in spec.attention_specs}) > 1,
    "rotary settings by layer": lambda spec: len({layer.rope for layer in spec.layers if layer.rope is not None}) > 1,
    "head sizes by layer": lambda spec: len(_head_sizes(spec)) > 1,
    "scaled embeddings or logits": lambda spec: (spec.embedding_scale, spec.logit_scale) != (1.0, 1.0),
    "capped logits": lambda spec: spec.logit_softcap is not None,
    "sees both ways": lambda spec: spec.is_encoder,
    "bias by distance": lambda spec: spec.relative_bias is not None,
    "token types": lambda spec: spec.num_token_types > 0,
    "scores": lambda spec: spec.score_head is not None,
    "embeddings of another size": lambda spec: spec.embedding_size is not None,
}

_ATTENTION: dict[str, Callable[[AttentionSpec], bool]] = {
    "ALiBi": lambda attention: attention.has_alibi,
    "windows": lambda attention: attention.sliding_window is not None,
    "chunks": lambda attention: attention.chunk is not None,
    "capped scores": lambda attention: attention.logit_softcap is not None,
    "sinks": lambda attention: attention.has_sinks,
    "latent attention": lambda attention: attention.values_from is not None,
    "values of another size": lambda attention: attention.value_size is not None,
    "positions chosen by an indexer": lambda attention: attention.indexer is not None,
    "positions chosen by an earlier layer": lambda attention: attention.reuses_choice,
}

_LAYER: dict[str, Callable[[LayerSpec], bool]] = {
    "short convolutions": lambda layer: isinstance(layer.recurrence, ShortConvSpec),
    "gated delta rule": lambda layer: isinstance(layer.recurrence, GatedDeltaSpec),
    "decays by channel": lambda layer: (
        isinstance(layer.recurrence, GatedDeltaSpec) and layer.recurrence.has_channel_decay
    ),
    "state spaces": lambda layer: isinstance(layer.recurrence, StateSpaceSpec) and layer.recurrence.rates is None,
    "lightning attention": lambda layer: (
        isinstance(layer.recurrence, StateSpaceSpec) and layer.recurrence.rates is not None
    ),
    "selective scans": lambda layer: isinstance(layer.recurrence, SelectiveScanSpec),
    "gated linear units": lambda layer: isinstance(layer.recurrence, LinearUnitSpec),
    "generalized delta rule": lambda layer: isinstance(layer.recurrence, GeneralizedDeltaSpec),
    "token shifts": lambda layer: layer.mlp_shift is not None,
    "attention beside a recurrence": lambda layer: layer.beside is not None,
    "layers of one sublayer": lambda layer: layer.mixer is None or layer.mlp is None,
    "partial rotary embedding": lambda layer: (
        layer.rope is not None
        and layer.latent is None
        and (layer.rope.rotary_dim < layer.attention.head_dim or layer.rope.num_pairs is not None)
    ),
    "QK norms": lambda layer: layer.qk_norm is not None,
    "norms of values": lambda layer: layer.value_norm is not None,
    "values from the keys' matrix": lambda layer: not layer.has_value_matrix,
    "keys and values of earlier layers": lambda layer: layer.kv_layer is not None,
    "residual streams": lambda layer: layer.streams is not None,
    "Laurel": lambda layer: layer.laurel_rank is not None,
    "sparse gates": lambda layer: isinstance(layer.mlp, MLPSpec) and layer.mlp.gate_sparsity > 0.0,
    "inputs of layers": lambda layer: layer.layer_input is not None,
    "scaled layers": lambda layer: layer.has_output_scale,
    "query temperature": lambda layer: layer.query_temperature is not None,
    "output gate": lambda layer: layer.has_output_gate,
    "gates of heads": lambda layer: layer.gates_whole_heads,
    "norms after sublayers": lambda layer: layer.placement is NormPlacement.POST,
    "norms on both sides": lambda layer: layer.placement is NormPlacement.SANDWICH,
    "norms of sums": lambda layer: layer.placement is NormPlacement.AFTER_SUM,
    "residuals of normalized rows": lambda layer: layer.placement is NormPlacement.BEFORE_SKIP,
    "parallel sublayers": lambda layer: layer.placement in _PARALLEL,
    "scaled sublayers": lambda layer: layer.sublayer_scale != 1.0,
    "norms inside sublayers": lambda layer: layer.heads_norm is not None,
    "bounded queries, keys and values": lambda layer: layer.qkv_limit is not None,
    "xIELU": lambda layer: isinstance(layer.mlp, MLPSpec) and layer.mlp.activation is Activation.XIELU,
    "experts": lambda layer: layer.experts is not None,
    "experts in a latent size": lambda layer: layer.experts is not None and layer.experts.latent_size is not None,
    "experts beside an MLP": lambda layer: layer.moe is not None,
    "shared experts": lambda layer: layer.experts is not None and layer.experts.shared is not None,
}

_ROUTER: dict[str, Callable[[RouterSpec], bool]] = {
    "groups of experts": lambda router: router.num_groups > 1,
    "SparseMixer": lambda router: router.score is RouterScore.SPARSEMIXER,
    "sigmoid scores": lambda router: router.score is RouterScore.SIGMOID,
}
