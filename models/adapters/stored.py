"""What the readers of adapters find in a file: changes to tensors of the base model, by their names there."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class FoundPair:
    """A pair of one tensor, in the layout and order of rows of the base model's checkpoint; see LowRankPair.

    magnitude: the lengths of the adapted rows, of DoRA.

    name: of one of its tensors, for messages. target: the base model's tensor, such as
    "model.layers.0.self_attn.q_proj.weight". is_look_up: of an embedding; `a` has a column for each id.
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
class FoundWeight:
    """A whole tensor. is_copy: of the base model's own, which the adapter's other tensors were trained with."""

    name: str
    target: str
    weight: torch.Tensor
    is_copy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FoundAdapter:
    """source: the file, for messages. is_gguf: whether names and order of rows are those of GGUF checkpoints."""

    source: str
    alpha: float
    base_model: str
    is_gguf: bool
    pairs: tuple[FoundPair, ...]
    weights: tuple[FoundWeight, ...] = ()
