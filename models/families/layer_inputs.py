"""Per-layer embeddings, a table with an input of each layer for each token: spec, rules for names, GGUF fields."""

from typing import Any

from models.architecture.layer import LayerInputSpec, LayerSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families.name_map import To

_SIZE = "hidden_size_per_layer_input"


def has_inputs(config: HFConfig) -> bool:
    """Whether layers have such inputs; a model without them states a size of 0 or null."""
    return not config.is_null(_SIZE) and config.raw(_SIZE) != 0


def describe(config: HFConfig, layer: LayerSpec) -> LayerInputSpec:
    """Return the spec. layer: any of the model."""
    vocab_size = config.integer("vocab_size_per_layer_input", 262144)
    return LayerInputSpec(vocab_size, config.integer(_SIZE, 256), layer.dense_mlp.activation, layer.norm)


NAMES = {
    "model.embed_tokens_per_layer.*": To("layer_inputs.table"),
    "model.per_layer_model_projection.*": To("layer_inputs.project"),
    "model.per_layer_projection_norm.*": To("layer_inputs.norm"),
    "model.layers.{i}.per_layer_input_gate.*": To("layers.{i}.layer_input.gate"),
    "model.layers.{i}.per_layer_projection.*": To("layers.{i}.layer_input.out"),
    "model.layers.{i}.post_per_layer_input_norm.*": To("layers.{i}.layer_input.norm"),
}

GGUF_NAMES = {
    "per_layer_token_embd.*": To("layer_inputs.table"),
    "per_layer_model_proj.*": To("layer_inputs.project"),
    "per_layer_proj_norm.*": To("layer_inputs.norm"),
    "blk.{i}.inp_gate.*": To("layers.{i}.layer_input.gate"),
    "blk.{i}.proj.*": To("layers.{i}.layer_input.out"),
    "blk.{i}.post_norm.*": To("layers.{i}.layer_input.norm"),
}


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    table = file.tensors.get("per_layer_token_embd.weight")
    return {
        "hidden_size_per_layer_input": file.integer("embedding_length_per_layer_input", 0, minimum=0),
        "vocab_size_per_layer_input": None if table is None else table.shape[0],
    }
