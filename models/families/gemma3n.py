"""Gemma 3n (text): four residual streams, layers' inputs, sparse gates; the last layers share keys and values."""

import dataclasses
from statistics import NormalDist
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.checkpoints.gguf.fields import check_layers_listed, common_fields, layer_counts, window_fields, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig
from models.config.layers import by_layer, integers_by_layer, sliding_windows, with_shared_kv
from models.config.rope import ropes_by_type
from models.errors import CheckpointError
from models.families import layer_inputs, llama, olmo2, residual_streams
from models.families.gemma import with_activation
from models.families.name_map import To
from models.families.registry import Family

_PATTERN = 5  # every fifth layer has full attention
_NUM_SPARSE = 10  # of the first layers, in models with more


def describe(config: HFConfig) -> DecoderSpec:
    count = config.num_layers("num_hidden_layers")
    sizes = integers_by_layer(config, "intermediate_size", count, 16384)
    usual = {"num_key_value_heads": 2, "final_logit_softcapping": 30.0}
    config = with_activation(config).with_defaults(usual).with_fields({"intermediate_size": sizes[0]})
    spec = llama.describe(config, llama.Defaults(head_dim=256, has_tied_head=True))
    windows = sliding_windows(config, count, is_windowed=lambda index: (index + 1) % _PATTERN != 0, default=512)
    head_dim = spec.layers[0].attention.head_dim
    ropes = ropes_by_type(config, head_dim, window_theta="rope_local_base_freq", default_theta=1e6)
    sparsity = _sparsity(config, count)
    norm, mlp = spec.layers[0].norm, spec.layers[0].dense_mlp
    mlps = [
        dataclasses.replace(mlp.with_size(size), gate_sparsity=share)
        for size, share in zip(sizes, sparsity, strict=True)
    ]
    layer_input, streams = layer_inputs.describe(config, spec.layers[0]), residual_streams.describe(config, norm)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        window = windows[index]
        return dataclasses.replace(
            layer,
            mixer=dataclasses.replace(layer.attention, scale=1.0, sliding_window=window),
            mlp=mlps[index],
            rope=ropes["full_attention" if window is None else "sliding_attention"],
            placement=NormPlacement.SANDWICH,
            qk_norm=QKNormSpec(norm),
            value_norm=dataclasses.replace(norm, has_weight=False),
            layer_input=layer_input,
            streams=streams,
            laurel_rank=config.integer("laurel_rank", 64),
        )

    return dataclasses.replace(
        with_shared_kv(config, spec.map_layers(adapt), default=15),
        embedding_scale=spec.hidden_size**0.5,
        logit_softcap=config.number("final_logit_softcapping"),
    )


def _sparsity(config: HFConfig, count: int) -> list[float]:
    """Return each layer's share of gates that are cut to 0."""
    shares = by_layer(config, "activation_sparsity_pattern", count)
    if shares is None:
        num_sparse = _NUM_SPARSE if count > _NUM_SPARSE else 0
        return [0.95] * num_sparse + [0.0] * (count - num_sparse)
    if not all(isinstance(share, int | float) and 0 <= share < 1 for share in shares):
        raise CheckpointError(
            f"{config.source}: activation_sparsity_pattern has shares that are not from 0 to below 1; {config.remedy}"
        )
    return [float(share) for share in shares]


NAMES = {
    **olmo2.NAMES,
    **layer_inputs.NAMES,
    **residual_streams.NAMES,
    "model.layers.{i}.pre_feedforward_layernorm.*": To("layers.{i}.mlp_norm"),
}

GGUF_NAMES = {**olmo2.GGUF_NAMES, **layer_inputs.GGUF_NAMES, **residual_streams.GGUF_NAMES}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Shares of gates that are cut are stored as bounds of a normal distribution."""
    sizes = layer_counts(file, "feed_forward_length")
    fields = common_fields(with_largest(file, "feed_forward_length"))
    return {
        **fields,
        **window_fields(file),
        **layer_inputs.gguf_fields(file),
        **residual_streams.gguf_fields(file),
        "hidden_activation": "gelu_pytorch_tanh",
        "intermediate_size": sizes,
        "rope_parameters": rope_parameters_by_layer(file, fields["head_dim"], window_theta=10000.0),
        "final_logit_softcapping": file.scale("final_logit_softcapping") or 30.0,
        "activation_sparsity_pattern": _gguf_shares(file),
        "num_kv_shared_layers": file.integer("attention.shared_kv_layers", 0, minimum=0),
    }


def _gguf_shares(file: GGUFMetadata) -> list[float]:
    name = "activation_sparsity_scale"
    bounds = file.raw(name)
    check_layers_listed(file, name, bounds)
    if not all(isinstance(bound, float) for bound in bounds):
        raise CheckpointError(f"{file.source}: {name} has items that are no numbers; convert the file again")
    return [NormalDist().cdf(bound) for bound in bounds]


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
