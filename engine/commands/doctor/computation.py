"""Checks of how a model would be computed: options and weights that fit it, whose code, and which attention."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from engine.commands.weighed import compute_by_torch
from engine.config import EngineConfig
from engine.startup.pooling import check_pooling_options, check_served_options
from models.architecture.kv_layout import KV_DTYPES
from models.attention.select import select_backend
from models.errors import SettingError
from models.kernels.cpu import build
from models.kernels.cpu.library import chosen_level
from models.loading.load import assigned_decoder, attention_note, resolve_dtype, traits_of
from models.loading.open import OpenedModel
from models.sources.resolve import ModelFiles

if TYPE_CHECKING:
    from models.transformers_backend.open import OpenedTransformersModel

_MAX_KINDS = 40  # of problems in one message


def check_served(
    opened: "OpenedModel | OpenedTransformersModel", files: ModelFiles, config: EngineConfig, *, is_alone: bool
) -> None:
    """Check the options and the names and shapes of weights as the loader does before it reads weights.

    is_alone: whether it is the only model; several may share a --max-model-len that is too long for some. Raises a
    ModelError or an OptionError.
    """
    traits = traits_of(opened, files)
    if is_alone:
        check_served_options(config, traits, opened.max_position)
    else:
        check_pooling_options(config, traits)
    opened.overridden.refuse_unread(opened.config.architecture())
    if isinstance(opened, OpenedModel):
        assigned_decoder(opened, compute_by_torch(config))


def describe_problems(problems: Sequence[str]) -> str:
    """List problems with tensors by kind; layers and experts of a kind count as one."""
    kinds = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", each) for each in problems)
    listed = [kind if count == 1 else f"{kind} ({count} times)" for kind, count in kinds.items()]
    more = f"; and {len(listed) - _MAX_KINDS} other kinds" if len(listed) > _MAX_KINDS else ""
    return "; ".join(listed[:_MAX_KINDS]) + more


def describe_computation(
    opened: "OpenedModel | OpenedTransformersModel", config: EngineConfig, device: torch.device
) -> str:
    """Describe whose code would compute a model and, if it is known without compiling kernels, with which attention."""
    name = opened.config.architecture()
    code = f"{name}, a family of headrace's own" if isinstance(opened, OpenedModel) else f"{name}: {opened.note}"
    specs = opened.attention_specs
    if not specs or (device.type == "cpu" and not _has_kernels()):
        return code
    dtype = resolve_dtype(config.dtype.value, opened.stored_dtype, device)
    kv_dtype = KV_DTYPES.get(config.kv_cache_dtype.value, dtype)
    backend, refusals = select_backend(specs, dtype, kv_dtype, device)
    return f"{code}; {attention_note(backend, refusals)}"


def _has_kernels() -> bool:
    """Whether the CPU kernels are here, so that nothing would have to be compiled."""
    try:
        recipe = build.level_recipe(chosen_level())
    except (build.KernelBuildError, SettingError):
        return False
    return build.prebuilt_library(recipe) is not None or build.is_compiled(recipe, build.kernel_folder())
