"""Gemma 3n (text): four residual streams, layers' inputs, sparse gates; the last layers share keys and values."""

import dataclasses
from statistics import NormalDist
from typing import Any

from models.architecture.attention import QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement, StreamsSpec
from models.checkpoints.gguf.fields import check_layers_listed, common_fields, layer_counts, window_fields, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.checkpoints.gguf.rope import rope_parameters_by_layer
from models.config.hf_config import HFConfig
from models.config.layers import by_layer, sliding_windows, with_shared_kv
from models.config.rope import ropes_by_type
from models.errors import CheckpointError
from models.families import layer_inputs, llama, olmo
from models.families.gemma import with_activation
from models.families.name_map import To
from models.families.registry import Family

_PATTERN = 5  # every fifth layer has full attention
_NUM_SPARSE = 10  # of the first layers, in models with more


def describe(config: HFConfig) -> DecoderSpec:
    count = config.num_layers("num_hidden_layers")
    sizes = by_layer(config, "intermediate_size", count) or [16384] * count
    usual = {"num_key_value_heads": 2, "final_logit_softcapping": 30.0}
    config = with_activation(config).with_defaults(usual).with_fields({"intermediate_size": sizes[0]})
    spec = llama.describe(config, llama.Defaults(head_dim=256, has_tied_head=True))
    windows = sliding_windows(config, count, is_windowed=lambda index: (index + 1) % _PATTERN != 0, default=512)
    head_dim = spec.layers[0].attention.head_dim
    ropes = ropes_by_type(config, head_dim, window_theta="rope_local_base_freq", default_theta=1e6)
    sparsity = _sparsity(config, count)
    norm, first = spec.layers[0].norm, spec.layers[0].mlp
    assert isinstance(first, MLPSpec)
    mlps = [
        dataclasses.replace(first, intermediate_size=_size(config, size), gate_sparsity=share)
        for size, share in zip(sizes, sparsity, strict=True)
    ]
    num_streams = config.integer("altup_num_inputs", 4, minimum=2)
    streams = StreamsSpec(
        num_streams,
        config.integer("altup_active_idx", 0, minimum=0, maximum=num_streams - 1),
        norm,
        is_scaled=config.boolean("altup_correct_scale", True),
    )
    layer_input = layer_inputs.describe(config, spec.layers[0])

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


def _size(config: HFConfig, size: object) -> int:
    return config.with_fields({"intermediate_size": size}).integer("intermediate_size")


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
    **olmo.NAMES,
    **layer_inputs.NAMES,
    "model.layers.{i}.pre_feedforward_layernorm.*": To("layers.{i}.mlp_norm"),
    "model.altup_projections.{e}.*": To("streams.expand.{e}"),
    "model.altup_unembed_projections.{e}.*": To("streams.merge.{e}"),
    "model.layers.{i}.altup.correct_output_scale": To("layers.{i}.streams", parameter="scale"),
    "model.layers.{i}.altup.correction_coefs.*": To("layers.{i}.streams.correct_by"),
    "model.layers.{i}.altup.prediction_coefs.*": To("layers.{i}.streams.predict_by"),
    "model.layers.{i}.altup.modality_router.*": To("layers.{i}.streams.router"),
    "model.layers.{i}.altup.router_norm.*": To("layers.{i}.streams.router_norm"),
    "model.layers.{i}.laurel.linear_left.*": To("layers.{i}.laurel.left"),
    "model.layers.{i}.laurel.linear_right.*": To("layers.{i}.laurel.right"),
    "model.layers.{i}.laurel.post_laurel_norm.*": To("layers.{i}.laurel.norm"),
}

GGUF_NAMES = {
    **olmo.GGUF_NAMES,
    **layer_inputs.GGUF_NAMES,
    "altup_proj.*": To("streams.expand.{e}"),
    "altup_unembd_proj.*": To("streams.merge.{e}"),
    "blk.{i}.altup_correct_scale.*": To("layers.{i}.streams", parameter="scale"),
    "blk.{i}.altup_correct_coef.*": To("layers.{i}.streams.correct_by"),
    "blk.{i}.altup_predict_coef.*": To("layers.{i}.streams.predict_by"),
    "blk.{i}.altup_router.*": To("layers.{i}.streams.router"),
    "blk.{i}.altup_router_norm.*": To("layers.{i}.streams.router_norm"),
    "blk.{i}.laurel_l.*": To("layers.{i}.laurel.left"),
    "blk.{i}.laurel_r.*": To("layers.{i}.laurel.right"),
    "blk.{i}.laurel_post_norm.*": To("layers.{i}.laurel.norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    """Return the fields of config.json. Shares of gates that are cut are stored as bounds of a normal distribution."""
    sizes = layer_counts(file, "feed_forward_length")
    fields = common_fields(with_largest(file, "feed_forward_length"))
    laurel = file.tensors.get("blk.0.laurel_l.weight")
    return {
        **fields,
        **window_fields(file),
        **layer_inputs.gguf_fields(file),
        "hidden_activation": "gelu_pytorch_tanh",
        "intermediate_size": sizes,
        "rope_parameters": rope_parameters_by_layer(file, fields["head_dim"], window_theta=10000.0),
        "final_logit_softcapping": file.scale("final_logit_softcapping") or 30.0,
        "activation_sparsity_pattern": _gguf_shares(file),
        "num_kv_shared_layers": file.integer("attention.shared_kv_layers", 0, minimum=0),
        "altup_num_inputs": file.integer("altup.num_inputs"),
        "altup_active_idx": file.integer("altup.active_idx", minimum=0),
        "laurel_rank": None if laurel is None else laurel.shape[0],
    }


def _gguf_shares(file: GGUFMetadata) -> list[float]:
    name = "activation_sparsity_scale"
    bounds = file.raw(name)
    check_layers_listed(file, name, bounds)
    if not all(isinstance(bound, float) for bound in bounds):
        raise CheckpointError(f"{file.source}: {name} has items that are no numbers; convert the file again")
    return [NormalDist().cdf(bound) for bound in bounds]


FAMILY = Family(describe, NAMES, GGUF_NAMES, gguf_fields)
