"""State spaces and selective scans: the fields of their families, and rules for the names of their tensors."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormSpec
from models.architecture.recurrence import SelectiveScanSpec, StateSpaceSpec
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig, quote_value
from models.errors import CheckpointError, UnsupportedModelError
from models.families.name_map import To
from models.families.transforms import conv_weight, flat, flat_log_of_rate, log_of_rate

_MAX_KERNEL_SIZE = 8  # of the convolution; kernels keep the inputs before a row in registers
_COUNTS = r"^(mamba_)?(n|num)_(heads|groups)$"  # names of the numbers of heads and groups, in all families
_FETCH = "fetch the checkpoint's own configuration again"


def mamba_space(config: HFConfig, norm: NormSpec | None) -> StateSpaceSpec:
    """Return the state space by the fields that hybrids share, "mamba_d_state" and others."""
    inner_size, num_heads = _inner_size(config), config.integer("mamba_n_heads", 128)
    is_derived = config.raw("mamba_d_head") in (None, "auto")
    has_bias = config.boolean("mamba_proj_bias", False)
    spec = StateSpaceSpec(
        num_heads=num_heads,
        head_dim=max(1, inner_size // num_heads) if is_derived else config.integer("mamba_d_head"),
        num_groups=config.integer("mamba_n_groups", 1),
        state_size=config.integer("mamba_d_state", 256),
        kernel_size=_kernel_size(config),
        norm=norm,
        has_conv_bias=config.boolean("mamba_conv_bias", True),
        has_in_bias=has_bias,
        has_out_bias=has_bias,
    )
    return _checked_space(config, _with_step_limit(config, spec), inner_size)


def with_spaces(config: HFConfig, spec: DecoderSpec, kinds: Sequence[str]) -> DecoderSpec:
    """Return `spec` with `mamba_space` in place of attention in layers of the kind "space"."""
    if "space" not in kinds:
        return spec
    space = mamba_space(config, spec.layers[0].norm)

    def adapt(index: int, layer: LayerSpec) -> LayerSpec:
        return dataclasses.replace(layer, mixer=space, rope=None) if kinds[index] == "space" else layer

    return spec.map_layers(adapt)


def mamba_scan(config: HFConfig, norm: NormSpec | None) -> SelectiveScanSpec:
    """Return the selective scan by the fields that `mamba_space` reads, too. norm: of steps, B and C."""
    is_derived = config.raw("mamba_dt_rank") in (None, "auto")  # from the hidden size
    return SelectiveScanSpec(
        num_channels=_inner_size(config),
        state_size=config.integer("mamba_d_state", 16),
        step_rank=-(-config.integer("hidden_size") // 16) if is_derived else config.integer("mamba_dt_rank"),
        kernel_size=_kernel_size(config),
        norm=norm,
        has_conv_bias=config.boolean("mamba_conv_bias", True),
        has_bias=config.boolean("mamba_proj_bias", False),
    )


def require_silu(config: HFConfig, name: str) -> None:
    """Raise UnsupportedModelError if the field `name` is another activation."""
    if (activation := config.text(name, "silu")) != "silu":
        raise UnsupportedModelError(f"{config.source}: {name} is {activation!r}; supported is 'silu'")


def _inner_size(config: HFConfig) -> int:
    """Return the channels of all heads: `mamba_d_ssm`, by default `mamba_expand` times the hidden size."""
    if config.has("mamba_d_ssm"):
        return config.integer("mamba_d_ssm")
    return config.integer("mamba_expand", 2) * config.integer("hidden_size")


def _kernel_size(config: HFConfig) -> int:
    return config.integer("mamba_d_conv", 4, minimum=2, maximum=_MAX_KERNEL_SIZE)


def _with_step_limit(config: HFConfig, spec: StateSpaceSpec) -> StateSpaceSpec:
    """Return the spec with the limits of steps that `time_step_limit` gives, by default none."""
    limit = config.raw("time_step_limit")
    if limit is None:
        return spec
    limit = [_untagged(item) for item in limit] if isinstance(limit, list | tuple) else limit
    is_pair = isinstance(limit, list) and len(limit) == 2
    if not is_pair or any(isinstance(item, bool) or not isinstance(item, int | float) for item in limit):
        raise CheckpointError(
            f"{config.source}: time_step_limit is {quote_value(limit)}; it must be two numbers, the smallest and the "
            f"largest step; {_FETCH}"
        )
    low, high = map(float, limit)
    if not (0.0 <= low < high and math.isfinite(low)):
        raise CheckpointError(
            f"{config.source}: time_step_limit is {quote_value(limit)}; it must be the smallest step, at least 0, and "
            f"the largest, which may be infinite; {_FETCH}"
        )
    return dataclasses.replace(spec, min_step=low, max_step=high)


def _untagged(value: Any) -> Any:
    """Return the number of {"__float__": "Infinity"}, as transformers writes infinities; other values as they are."""
    return math.inf if value == {"__float__": "Infinity"} else value


def _checked_space(config: HFConfig, spec: StateSpaceSpec, inner_size: int) -> StateSpaceSpec:
    """Return the spec. Raises CheckpointError if heads, groups and sizes contradict each other."""
    if spec.inner_size != inner_size:
        raise CheckpointError(
            f"{config.source}: {spec.num_heads} state space heads of {spec.head_dim} channels are {spec.inner_size}, "
            f"and by the expansion there are {inner_size}; {_FETCH}"
        )
    if spec.num_heads % spec.num_groups:
        raise CheckpointError(
            f"{config.source}: {spec.num_groups} groups do not divide {spec.num_heads} state space heads"
            f"{config.list_integers(_COUNTS)}; {_FETCH}"
        )
    return spec


def space_names(block: str, module: str = "layers.{i}.attn") -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for a state space in "model.layers.{i}.<block>"."""
    names = f"model.layers.{{i}}.{block}"
    return {
        f"{names}.in_proj.*": To(f"{module}.in_proj"),
        f"{names}.conv1d.weight": To(module, None, conv_weight, "conv_weight"),
        f"{names}.conv1d.bias": To(module, parameter="conv_bias"),
        f"{names}.A_log": To(module, parameter="A_log"),
        f"{names}.dt_bias": To(module, parameter="dt_bias"),
        f"{names}.D": To(module, parameter="D"),
        f"{names}.norm.*": To(f"{module}.norm"),
        f"{names}.out_proj.*": To(f"{module}.out", when_present=f"{module}.in_proj"),
    }


def scan_names(block: str) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for a selective scan in "model.layers.{i}.<block>"."""
    names, module = f"model.layers.{{i}}.{block}", "layers.{i}.attn"
    norms = {f"{names}.{part}_layernorm.*": To(f"{module}.{part}_norm") for part in ("dt", "b", "c")}
    return {
        **space_names(block),
        f"{names}.x_proj.*": To(f"{module}.x_proj"),
        f"{names}.dt_proj.*": To(f"{module}.dt_proj"),
        **norms,
    }


def gguf_space_names(module: str = "layers.{i}.attn") -> dict[str, To | tuple[To, ...] | None]:
    return {
        "blk.{i}.ssm_in.*": To(f"{module}.in_proj"),
        "blk.{i}.ssm_conv1d.weight": To(module, None, conv_weight, "conv_weight"),
        "blk.{i}.ssm_conv1d.bias": To(module, parameter="conv_bias"),
        "blk.{i}.ssm_a": To(module, None, flat_log_of_rate, "A_log"),
        "blk.{i}.ssm_dt.bias": To(module, parameter="dt_bias"),
        "blk.{i}.ssm_d": To(module, None, flat, "D"),
        "blk.{i}.ssm_norm.*": To(f"{module}.norm", transform=flat),
        "blk.{i}.ssm_out.*": To(f"{module}.out"),
    }


def gguf_scan_names() -> dict[str, To | tuple[To, ...] | None]:
    module = "layers.{i}.attn"
    shared = gguf_space_names(module)
    del shared["blk.{i}.ssm_dt.bias"]
    return {
        **shared,
        "blk.{i}.ssm_a": To(module, None, log_of_rate, "A_log"),
        "blk.{i}.ssm_dt.*": To(f"{module}.dt_proj"),
        **{f"blk.{{i}}.ssm_{part}_norm.*": To(f"{module}.{part}_norm") for part in ("dt", "b", "c")},
        "blk.{i}.ssm_x.*": To(f"{module}.x_proj"),
    }


def gguf_scan_fields(file: GGUFMetadata, names: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return config.json's fields that `mamba_scan` reads. names: as in `gguf_space_fields`."""
    fields = {**_gguf_fields(file), "mamba_dt_rank": file.integer("ssm.time_step_rank")}
    return {names.get(name, name): value for name, value in fields.items()}


def gguf_space_fields(file: GGUFMetadata, names: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return config.json's fields that `mamba_space` reads. names: the family's names of such fields, if it has its
    own, as for `HFConfig.renamed`."""
    num_heads = file.integer("ssm.time_step_rank")
    fields = {
        **_gguf_fields(file),
        "mamba_n_heads": num_heads,
        "mamba_d_head": file.integer("ssm.inner_size") // num_heads,
        "mamba_n_groups": file.integer("ssm.group_count"),
        "time_step_limit": None,
    }
    return {names.get(name, name): value for name, value in fields.items()}


def _gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    return {
        "mamba_d_ssm": file.integer("ssm.inner_size"),
        "mamba_d_state": file.integer("ssm.state_size"),
        "mamba_d_conv": file.integer("ssm.conv_kernel"),
        "mamba_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in file.tensors),
        "mamba_proj_bias": any(name.endswith("ssm_in.bias") for name in file.tensors),
    }
