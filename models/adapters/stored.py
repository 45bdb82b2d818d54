"""StoredAdapter: an adapter as its file states it, with changes named by the base model's tensors."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class StoredPair:
    """The LoRA pair (A, B) of one tensor, in the layout and row order of the base model's checkpoint.

    name: name of A or B in the file, for messages. target: name of the base model's tensor, such as
    "model.layers.0.self_attn.q_proj.weight". magnitude: L2 norms of the adapted rows (DoRA). is_look_up: whether the
    tensor is an embedding, for which `a` has a column per token id.
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
    """A whole weight in an adapter's file. is_copy: whether it is only a copy of the base model's weight."""

    name: str
    target: str
    weight: torch.Tensor
    is_copy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StoredAdapter:
    """An adapter as read from its file. source: the file's name, for messages. is_gguf: whether tensor names and row
    order are those of GGUF files."""

    source: str
    alpha: float
    base_model: str
    is_gguf: bool
    pairs: tuple[StoredPair, ...]
    weights: tuple[StoredWeight, ...] = ()
