"""ForeignModel: the transformers class and configuration of a config.json, if they can run here."""

import inspect
import sys
from dataclasses import dataclass

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from models.checkpoints.quantized.registry import QUANTIZATION_FIELDS
from models.config.hf_config import HFConfig
from models.config.overrides import OverriddenConfig
from models.config.rope import context_length
from models.errors import UnsupportedModelError, shorten_error

# Errors that transformers' code may raise for a configuration that it does not expect.
FOREIGN_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError),
    *(TypeError, ValueError, StrictDataclassError),
)
# Scalings that depend on the longest sequence of a batch, so that a request's result would depend on its neighbors.
_LENGTH_DEPENDENT_SCALINGS = ("dynamic", "longrope", "su")
# Kinds of layers that keep keys and values, or nothing.
_LAYERS_OF_KEYS_AND_VALUES = (
    *("full_attention", "sliding_attention", "chunked_attention", "attention"),
    *("sparse", "dense", "moe", "mlp"),
)
_ROTARY_FIELDS = ("rope_parameters", "rope_scaling", "rope_theta")  # a class that has one of these reads all


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A causal language model of transformers: its class, and the configuration to build it with."""

    model_class: type[PreTrainedModel]
    config: PretrainedConfig
    max_position: int

    @property
    def keeps_states(self) -> bool:
        """Whether the class keeps recurrent states."""
        return _keeps_states(self.model_class)


def find_foreign_model(overridden: OverriddenConfig) -> ForeignModel:
    """Find transformers' class for a config.json, and convert the configuration. Never runs code from a checkpoint.

    Raises UnsupportedModelError if the class cannot run here.
    """
    stored = overridden.config
    model_class = _class_of(stored)
    config = _config_of(stored)
    overridden.note_read({*inspect.signature(type(config)).parameters, *config.attribute_map, *_ROTARY_FIELDS})
    if reason := _refusal(model_class, config):
        raise UnsupportedModelError(f"transformers' {model_class.__name__} {reason}")
    return ForeignModel(model_class, config, _max_position(stored, config))


def _class_of(stored: HFConfig) -> type[PreTrainedModel]:
    architecture, model_type = stored.architecture(), stored.text("model_type")
    if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type) != architecture:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no causal language model {architecture!r} of type "
            f"{model_type!r}"
        )
    found: type[PreTrainedModel] = getattr(transformers, architecture)
    return found


def _config_of(stored: HFConfig) -> PretrainedConfig:
    if stored.has("num_hidden_layers"):
        stored.num_layers("num_hidden_layers")  # checked before the layers are built
    # transformers would put its own quantizers' layers in their place.
    fields = {name: value for name, value in stored.fields.items() if name not in QUANTIZATION_FIELDS}
    try:
        config: PretrainedConfig = CONFIG_MAPPING[stored.text("model_type")].from_dict(fields)
    except FOREIGN_ERRORS as error:
        raise UnsupportedModelError(f"{stored.source} is not valid for transformers: {shorten_error(error)}") from error
    return config


def _refusal(model_class: type[PreTrainedModel], config: PretrainedConfig) -> str | None:
    keeps_states = _keeps_states(model_class)
    if not keeps_states and not model_class._supports_attention_backend:
        return "does not support other attention functions (transformers' attention interface)"
    others = sorted(set(getattr(config, "layer_types", None) or ()) - set(_LAYERS_OF_KEYS_AND_VALUES))
    if others and not keeps_states:
        return f"has layers ({', '.join(others)}) that keep more than keys and values"
    if config.sub_configs:
        return f"consists of several models ({', '.join(config.sub_configs)}); only language models are run"
    if config.is_encoder_decoder:
        return "is an encoder with a decoder"
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [part.get("rope_type", part.get("type")) for part in (scaling, *scaling.values()) if isinstance(part, dict)]
    dependent = [kind for kind in _LENGTH_DEPENDENT_SCALINGS if kind in kinds]
    if dependent:
        return f"rotates positions by a scaling ({dependent[0]}) that depends on the other sequences of a batch"
    return None


def _keeps_states(model_class: type[PreTrainedModel]) -> bool:
    """Whether the code of a class keeps recurrent states in transformers' Cache."""
    code = inspect.getsource(sys.modules[model_class.__module__])
    return any(f".{name}(" in code for name in ("update_conv_state", "update_recurrent_state"))


def _max_position(stored: HFConfig, config: PretrainedConfig) -> int:
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int) or length < 1:
        raise UnsupportedModelError(
            f"{stored.source} states no max_position_embeddings; state it with --hf-overrides, as "
            """'{"max_position_embeddings": 2048}'"""
        )
    return context_length(stored, length)
