"""PeftConfig: the settings in PEFT's adapter_config.json. Fields that change results are supported or refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from models.config.hf_config import HFConfig, quote_value, read_json_config
from models.config.patterns import module_pattern
from models.errors import AdapterError, CheckpointError

Value = TypeVar("Value")

CONFIG_NAME = "adapter_config.json"
_MAX_RANK = 1 << 16
# Fields about training, which do not change how the trained tensors are used.
_TRAINING_FIELDS = frozenset(
    (
        "modules_to_save",
        *("task_type", "auto_mapping", "revision", "inference_mode", "peft_version", "target_modules"),
        *("exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "bias", "runtime_config"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "megatron_core"),
        *("velora_config", "fan_in_fan_out"),
    )
)
_SUPPORTED_FIELDS = frozenset(
    (
        *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora", "lora_bias"),
        *("base_model_name_or_path", "init_lora_weights"),
    )
)
# Other values ("pissa", "olora", "loftq", ...) change the base model's weights, and the adapter fits only those.
_INITS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """Settings of an adapter.

    rank_patterns, alpha_patterns: values by patterns of module names, in order; the first that matches decides.
    """

    source: str
    rank: int
    alpha: float
    is_rank_stabilized: bool  # scale alpha / sqrt(r) (Kalajdzievski 2023) instead of alpha / r
    rank_patterns: Mapping[str, int]
    alpha_patterns: Mapping[str, float]
    base_model: str

    def rank_of(self, module: str) -> int:
        return _first_match(self.rank_patterns, module, self.rank)

    def scale_of(self, module: str) -> float:
        rank, alpha = self.rank_of(module), _first_match(self.alpha_patterns, module, self.alpha)
        return alpha / (rank**0.5 if self.is_rank_stabilized else rank)


def read_peft_config(folder: Path) -> PeftConfig:
    """Read the settings of a PEFT adapter. Raises AdapterError, which names the file and the field."""
    path = folder / CONFIG_NAME
    if not path.exists():
        raise AdapterError(f"{path} does not exist; an adapter's folder needs it; save the adapter again")
    try:
        return _checked(read_json_config(path))
    except CheckpointError as error:
        raise AdapterError(str(error)) from None


def _checked(config: HFConfig) -> PeftConfig:
    if (kind := config.text("peft_type")).upper() != "LORA":
        raise AdapterError(
            f"{config.source}: peft_type {kind!r} is not supported; only LORA is; merge the adapter into its base "
            "model and serve that"
        )
    for name, value in config.fields.items():
        if value and name not in _SUPPORTED_FIELDS and name not in _TRAINING_FIELDS:
            raise AdapterError(
                f"{config.source}: {name} is {quote_value(value)}, which is not supported; merge the adapter into its "
                "base model and serve that, or train it without"
            )
    init = config.raw("init_lora_weights")
    if init is not None and init not in _INITS:
        raise AdapterError(
            f"{config.source}: init_lora_weights is {quote_value(init)}, which changes the base model's weights, so "
            "the adapter does not fit the original ones; convert it to a plain LoRA with PEFT (save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )
    base_model = config.raw("base_model_name_or_path")
    return PeftConfig(
        source=config.source,
        rank=config.integer("r", maximum=_MAX_RANK),
        alpha=config.number("lora_alpha", 8, minimum=0.0),
        is_rank_stabilized=config.boolean("use_rslora", False),
        rank_patterns={name: int(number) for name, number in _patterns(config, "rank_pattern", 1).items()},
        alpha_patterns=_patterns(config, "alpha_pattern", 0),
        base_model=base_model if isinstance(base_model, str) else "",
    )


def _patterns(config: HFConfig, name: str, minimum: int) -> dict[str, float]:
    section = config.section(name)
    for pattern in section.fields:
        module_pattern(pattern, section.source)
    if name == "rank_pattern":
        return {pattern: section.integer(pattern, maximum=_MAX_RANK) for pattern in section.fields}
    return {pattern: section.number(pattern, minimum=minimum) for pattern in section.fields}


def _first_match(patterns: Mapping[str, Value], module: str, default: Value) -> Value:
    """Return the value of the first pattern that matches the module's name or its end after a dot, like PEFT."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)
