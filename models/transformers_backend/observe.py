"""Detection of each layer's attention and of linear layers, by running a model without weights and recording its calls.

Configurations call heads, windows, caps and scales by many names, and the model's code decides their meaning. A run on
torch's meta device, which computes only shapes, shows how the code calls attention and linear layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from models.architecture.attention import AttentionSpec
from models.architecture.recurrence import StateSpec
from models.errors import UnsupportedModelError, shorten_error
from models.transformers_backend.config import FOREIGN_ERRORS, ForeignModel
from models.transformers_backend.linears import ReplaceableLayers, observe_linears, replaceable_layers
from models.transformers_backend.states import CurrentStates, StateGroup, state_groups

_OBSERVED = "headrace-observed"
_NUM_ROWS = 3
# Arguments that do not change attention here: there is no dropout, and rows have their positions.
_NEUTRAL = ("dropout", "position_ids", "use_cache", "output_attentions", "cache_position")


@dataclass(frozen=True, slots=True)
class Observed:
    """A model's properties, from a run without weights.

    layers: each layer's attention, with its module's name, in the order of calls. states: of recurrent layers.
    """

    layers: tuple[tuple[str, AttentionSpec], ...]
    vocab_size: int
    replaceable: ReplaceableLayers
    states: tuple[StateGroup, ...] = ()

    @property
    def mixers(self) -> list[AttentionSpec | StateSpec]:
        """The attention and the states of all layers; a layer may have both."""
        return [*(spec for _, spec in self.layers), *(group.spec for group in self.states)]


class _UnsupportedAttentionError(Exception):
    """The model calls attention in a way that is not supported; the message gives the reason."""


def observe(foreign: ForeignModel) -> Observed:
    """Run a model without weights, and record its attention and linear layers.

    Raises UnsupportedModelError if it is not supported.
    """
    name = foreign.model_class.__name__
    try:
        with torch.device("meta"), torch.inference_mode():
            model = foreign.model_class._from_config(
                foreign.config, attn_implementation=_OBSERVED, dtype=torch.bfloat16
            ).eval()
            calls: list[tuple[nn.Module, AttentionSpec]] = []
            for module in model.modules():
                module.recorded_calls = calls
            observe_linears(model)
            if foreign.keeps_states:
                logits, states = _run_with_states(model, calls)
                layers = _named(model, calls)
            else:
                logits, states = model(**_inputs(), use_cache=False).logits, ()
                layers = _layers(model, calls, foreign.config.num_hidden_layers)
            replaceable = replaceable_layers(model, _NUM_ROWS)
    except _UnsupportedAttentionError as reason:
        raise UnsupportedModelError(f"transformers' {name} {reason}") from None
    except FOREIGN_ERRORS as error:
        raise UnsupportedModelError(
            f"transformers' {name} does not run without weights: {shorten_error(error)}"
        ) from error
    return Observed(layers, logits.shape[-1], replaceable, states)


def _inputs() -> dict[str, torch.Tensor]:
    rows = torch.zeros((1, _NUM_ROWS), dtype=torch.int64)
    return {"input_ids": rows, "position_ids": rows, "attention_mask": torch.ones_like(rows)}


def _run_with_states(
    model: nn.Module, calls: list[tuple[nn.Module, AttentionSpec]]
) -> tuple[torch.Tensor, tuple[StateGroup, ...]]:
    """Run a recurrent model; return its logits, and the states that it keeps. Adds its attention to `calls`."""
    states = CurrentStates()
    inputs = _inputs()
    del inputs["attention_mask"]  # code of recurrences reads it
    logits: torch.Tensor = model(**inputs, use_cache=True, cache=states).logits
    if not states.values:
        raise _UnsupportedAttentionError("keeps a recurrent state, which is not in transformers' Cache")
    if states.num_updates != len(calls):
        raise _UnsupportedAttentionError(
            f"stores keys and values in {states.num_updates} layers and calls the attention interface in {len(calls)}"
        )
    return logits, state_groups(states.values, torch.bfloat16)


def _named(model: nn.Module, calls: Sequence[tuple[nn.Module, AttentionSpec]]) -> tuple[tuple[str, AttentionSpec], ...]:
    names = {module: name for name, module in model.named_modules()}
    return tuple((names[module], spec) for module, spec in calls)


def _layers(
    model: nn.Module, calls: Sequence[tuple[nn.Module, AttentionSpec]], num_layers: int
) -> tuple[tuple[str, AttentionSpec], ...]:
    layers = _named(model, calls)
    if len({name for name, _ in layers}) < len(layers):
        raise _UnsupportedAttentionError("attends several times in a layer")
    if len(layers) != num_layers:
        raise _UnsupportedAttentionError(
            f"attends in {len(layers)} of {num_layers} layers; the state of the others is not stored"
        )
    return layers


def _record(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    is_causal = others.pop("is_causal", None)
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise _UnsupportedAttentionError("looks ahead: it is not a causal model")
    unknown = [name for name, option in others.items() if not (name in _NEUTRAL or option is None or option is False)]
    if unknown:
        raise _UnsupportedAttentionError(f"passes unknown options to attention: {', '.join(unknown)}")
    if scaling is not None and not isinstance(scaling, int | float):
        raise _UnsupportedAttentionError("scales scores by a tensor")
    window = getattr(attention_mask, "window", None)
    if attention_mask is not None and window != (sliding_window or 0):
        raise _UnsupportedAttentionError("masks scores by a mask that is not a window")
    spec = AttentionSpec(
        num_heads=query.shape[1],
        num_kv_heads=key.shape[1],
        head_dim=max(key.shape[-1], value.shape[-1]),
        scale=key.shape[-1] ** -0.5 if scaling is None else float(scaling),
        sliding_window=sliding_window or None,
        logit_softcap=softcap,
        has_sinks=s_aux is not None,
    )
    module.recorded_calls.append((module, spec))
    return query.new_empty((1, query.shape[2], query.shape[1], value.shape[-1])), None


def _mask(
    q_length: int, kv_length: int, mask_function: Callable[..., torch.Tensor], local_size: int | None = None, **_: Any
) -> torch.Tensor:
    """Return an uninitialized mask with an attribute `window`, the result of `_window` for the mask function."""
    mask = torch.empty((1, 1, q_length, kv_length), dtype=torch.bool)
    mask.window = _window(mask_function, 3 * (local_size or 8))
    return mask


def _window(mask_function: Callable[..., torch.Tensor], position: int) -> int | None:
    """Return the window of a mask function, the query included; 0 for a causal mask, None for any other pattern."""
    with torch.device("cpu"):
        zero, row, keys = torch.tensor(0), torch.tensor(position), torch.arange(position + 2)
        try:
            seen = mask_function(zero, zero, row, keys).nonzero().flatten().tolist()
        except FOREIGN_ERRORS:  # for example a mask that needs images
            return None
    if not seen or seen != list(range(seen[0], position + 1)):
        return None
    return position + 1 - seen[0] if seen[0] else 0


AttentionInterface.register(_OBSERVED, _record)
ALL_MASK_ATTENTION_FUNCTIONS.register(_OBSERVED, _mask)
