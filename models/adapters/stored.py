"""StoredAdapter: the contents of an adapter's file, as changes of the base model's tensors by their names there."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class StoredPair:
    """A low-rank pair for one tensor, in the layout and order of rows of the base model's checkpoint; see LowRankPair.

    name: of one of the pair's tensors, for messages. target: the base model's tensor, such as
    "model.layers.0.self_attn.q_proj.weight". magnitude: the lengths of the adapted rows (DoRA). is_look_up: for an
    embedding; `a` has a column for each id.
    """

    name: str
    target: str
    a: torch.Tensor  # [r, in]
    b: torch.Tensor  # [out, r]
    scale: float
    bias: torch.Tensor | None = None  # [out]
    magnitude: torch.Tensor | None = None  # [out]
    is_look_up: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A whole tensor. is_copy: whether it is the base model's own, stored with an adapter that was trained with it."""

    name: str
    target: str
    weight: torch.Tensor
    is_copy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StoredAdapter:
    """An adapter's file. source: its name, for messages. is_gguf: whether it has GGUF's names and row order."""

    source: str
    alpha: float
    base_model: str
    is_gguf: bool
    pairs: tuple[StoredPair, ...]
    weights: tuple[StoredWeight, ...] = ()
