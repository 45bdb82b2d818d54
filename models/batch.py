"""ForwardBatch: one step's token rows and where their KV lives; an explicit argument of every forward."""

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True, slots=True, eq=False)
class KVGroupBatch:
    """Addresses of one KV group: layers that see the same positions (attention/layer_groups.py).

    slot_mapping: [T] int64, slot (block * block_size + offset) that each row's K and V are written to.
    block_tables: [S, M] int32, each sequence's blocks in order of position, 0 where there is none: after the end, and
    before the window of the first row.
    """

    slot_mapping: torch.Tensor
    block_tables: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class StateGroupBatch:
    """Addresses of the group of recurrent layers, whose cache has one state in a block.

    sources: [S] int32, block of the state that each sequence continues from, -1 for a new sequence.
    targets: [T] int32, block that takes the state after each row, -1 where it is not stored.
    cu_seqlens: [S + 1] int32, row offsets of each sequence.
    speculative_rows: [n] int64, rows of sequences with a draft, which may be rejected. They have no targets; each layer
    remembers its inputs of them (LayerState.pending_rows), and `Decoder.commit_states` runs the accepted ones through
    the recurrence. None if there are no such rows.
    query_lens, source_blocks and target_blocks are the host's copy.
    """

    sources: torch.Tensor
    targets: torch.Tensor
    cu_seqlens: torch.Tensor
    speculative_rows: torch.Tensor | None
    query_lens: tuple[int, ...]
    source_blocks: tuple[int, ...]
    target_blocks: tuple[int, ...]


GroupBatch = KVGroupBatch | StateGroupBatch


@dataclass(frozen=True, slots=True, eq=False)
class DistanceBias:
    """What a head's logits gain by the distance of a key from its query, the same in all layers.

    table: [H, MARGIN + 2 * reach + 1 + MARGIN] fp32, of distances -reach .. reach. The margins mean nothing: kernels
    read whole vectors.
    """

    MARGIN: ClassVar[int] = 16

    table: torch.Tensor
    reach: int

    @property
    def zero_column(self) -> int:
        """Of distance 0."""
        return self.MARGIN + self.reach


@dataclass(frozen=True, slots=True, eq=False)
class ForwardBatch:
    """Rows of all sequences of a step, sequence after sequence; prefill chunks and decodes are not told apart.

    token_ids: [T] int64. positions: [T] int64. cu_seqlens_q: [S + 1] int32, row offsets of each sequence.
    seq_lens: [S] int32, context length of each sequence after this step (its rows included).
    logit_rows: [L] int64, rows whose logits are needed.
    adapter_slots: [T] int32, the slot of each row's adapter (`LoadedModel.set_adapter`), -1 for rows without one; None
    if no row has one.
    distance_bias: filled in by a decoder that has one, for its layers.
    All on the model's device. query_lens and context_lens are the host's copy of the lengths, so that nothing has to
    be read back.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    cu_seqlens_q: torch.Tensor
    seq_lens: torch.Tensor
    groups: tuple[GroupBatch, ...]  # in the order of Decoder.layer_groups
    logit_rows: torch.Tensor
    query_lens: tuple[int, ...]  # [S] rows of each sequence
    context_lens: tuple[int, ...]  # [S] seq_lens
    block_size: int
    adapter_slots: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None  # [T] int64; None: all 0, or the model has no types
    distance_bias: DistanceBias | None = None
