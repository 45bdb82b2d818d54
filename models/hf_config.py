"""HFConfig: checked access to a config.json, and the parts of it that families read alike."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import CheckpointError, UnsupportedModelError
from models.spec import Activation, FrequencyFactors, LinearScaling, Llama3Scaling, RopeScaling, RopeSpec

# Sane bounds: a damaged file must not make us allocate or count for hours, nor overflow a product of two sizes.
_MAX_SIZE = 2**28
_MAX_LAYERS = 2**12
_MAX_NUMBER = 1e30
_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}


@dataclass(frozen=True, slots=True)
class HFConfig:
    """Fields of a config.json (or of GGUF metadata put in its terms). `null` counts as absent.

    Getters raise CheckpointError that names `source` and the field when it is absent without a default, or malformed.
    """

    fields: Mapping[str, Any]
    source: str  # the file, for messages

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1, maximum: int = _MAX_SIZE) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._malformed(name, value, f"an integer from {minimum} to {maximum}")
        return value

    def num_layers(self, name: str) -> int:
        return self.integer(name, maximum=_MAX_LAYERS)

    def number(self, name: str, default: float | None = None, *, minimum: float | None = None) -> float:
        """A finite number of at least `minimum`, or above 0 if there is none."""
        value = self._get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
        if not is_number or (value <= 0 if minimum is None else value < minimum):
            raise self._malformed(name, value, "a number above 0" if minimum is None else f"at least {minimum}")
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._malformed(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._malformed(name, value, "a text")
        return value

    def section(self, name: str) -> "HFConfig":
        """A nested object; empty where the field is absent."""
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self._malformed(name, value, "an object")
        return HFConfig(value, f"{self.source}, {name}")

    def has(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def architecture(self) -> str:
        names = self.fields.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise self._malformed("architectures", names, "a list with the model's class name")
        return names[0]

    def activation(self, name: str) -> Activation:
        value = self.text(name)
        if value not in _ACTIVATIONS:
            known = ", ".join(sorted(_ACTIVATIONS))
            raise UnsupportedModelError(f"{self.source}: {name} is {value!r}; supported are {known}")
        return _ACTIVATIONS[value]

    def token_ids(self, name: str) -> list[int]:
        """A field that holds one id, several, or none."""
        value = self.fields.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in ids):
            raise self._malformed(name, value, "a token id or a list of them")
        return ids

    def _get(self, name: str, default: object) -> Any:
        value = self.fields.get(name)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{self.source} has no {name!r}; fetch the checkpoint's own configuration again")
        return value

    def _malformed(self, name: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self.source}: {name} is {value!r}; it must be {wanted}; fetch the checkpoint's own configuration again"
        )


def read_json_config(path: Path) -> HFConfig:
    """Read one JSON object; raises CheckpointError if the file is absent or is not one."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; a model folder needs it; fetch the checkpoint again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); fetch the checkpoint again") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object; fetch the checkpoint again")
    return HFConfig(fields, str(path))


def rope_spec(config: HFConfig, head_dim: int) -> RopeSpec:
    """Rotary positions as `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before) state them."""
    is_current = config.has("rope_parameters")
    scaling = config.section("rope_parameters" if is_current else "rope_scaling")
    outer = scaling if is_current else config
    theta = outer.number("rope_theta", config.number("rope_theta", 10000.0))
    share = outer.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    rotary_dim = int(head_dim * share)
    if share > 1.0 or rotary_dim < 2 or rotary_dim % 2:
        raise CheckpointError(
            f"{config.source}: partial_rotary_factor {share} of head size {head_dim} turns {rotary_dim} dimensions; "
            f"it must be an even number of them, 2 to {head_dim}"
        )
    return RopeSpec(rotary_dim, theta, _rope_scaling(config, scaling, rotary_dim))


def _rope_scaling(config: HFConfig, scaling: HFConfig, rotary_dim: int) -> RopeScaling | None:
    match scaling.text("rope_type", scaling.text("type", "default")):
        case "default":
            return None
        case "linear":
            return LinearScaling(scaling.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=scaling.number("factor"),
                low_freq_factor=scaling.number("low_freq_factor"),
                high_freq_factor=scaling.number("high_freq_factor"),
                original_max_position=scaling.integer("original_max_position_embeddings"),
            )
        case "factors":  # made by the GGUF reader
            return _frequency_factors(scaling, rotary_dim)
        case other:
            raise UnsupportedModelError(
                f"{config.source}: rotary scaling {other!r} is not supported; supported are default, linear and llama3"
            )


def _frequency_factors(scaling: HFConfig, rotary_dim: int) -> FrequencyFactors:
    factors = tuple(scaling.fields["factors"])
    if len(factors) != rotary_dim // 2 or not all(0 < factor <= _MAX_NUMBER for factor in factors):
        raise CheckpointError(
            f"{scaling.source}: rope_freqs.weight holds {len(factors)} factors from {min(factors)} to {max(factors)}; "
            f"there must be {rotary_dim // 2}, all above 0; fetch the file again"
        )
    return FrequencyFactors(factors)
