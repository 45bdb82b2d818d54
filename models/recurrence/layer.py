"""What recurrent layers share: the way to their state, and rows that are kept until it is known which are accepted."""

from abc import abstractmethod

import torch
from torch import nn

from models.attention.rotation import Rotation
from models.batch import ForwardBatch, StateGroupBatch
from models.linear.linear import Linear
from models.linear.prologue import Prologue
from models.recurrence.state import LayerState


class Recurrence(nn.Module):
    """in (`inp`), recurrence, out."""

    inp: Linear
    out: Linear

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        by: Rotation | None,  # noqa: ARG002
        batch: ForwardBatch,  # noqa: ARG002
        group: StateGroupBatch,
        state: LayerState,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """recurrence(norm(x)) (+ residual, used up; it may be x): [T, hidden]. Reads and writes `state`."""
        rows = self.inp(x, norm, out_dtype=state.parts[0].dtype)
        if group.open_rows is not None:
            state.kept = rows[group.open_rows]
        hidden: torch.Tensor = self.out(self.scan(rows, group, state), residual=residual)
        return hidden

    def advance(self, kept: torch.Tensor, group: StateGroupBatch, state: LayerState) -> None:
        """Write the states that accepted rows lead to. kept: [n] int64, which of the rows in state.kept they are."""
        self.scan(state.kept[kept], group, state)

    @abstractmethod
    def scan(self, rows: torch.Tensor, group: StateGroupBatch, state: LayerState) -> torch.Tensor:
        """What `out` takes, of the rows that `inp` gave."""
