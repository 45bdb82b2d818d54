"""The selective scan (SelectiveScanSpec) in torch, over the rows of several sequences that continue from a state.

Each channel and state has a decay of its own, so a chunk is no product of matrices: rows are computed one by one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.batch import StateGroupBatch
from models.kernels.operands import ScanInputs, ScanWeights
from models.kernels.torch.scan import ChunkedScan, scan_sequences


class ScanRows(NamedTuple):
    """Inputs of the recurrence in fp32, by row. A is the same for all rows."""

    step: torch.Tensor  # [T, channels], d
    v: torch.Tensor  # [T, channels], d x
    b: torch.Tensor  # [T, N]
    c: torch.Tensor  # [T, N]


def run_selective_scan(
    inputs: ScanInputs, weights: ScanWeights, state: torch.Tensor, group: StateGroupBatch
) -> torch.Tensor:
    """Run the recurrence, and the gate after it; RunSelectiveScan in ops.py has the details."""
    b, c = (
        part if weight is None else F.rms_norm(part, weight.shape, weight, weights.norm_eps)
        for part, weight in ((inputs.b, weights.b_norm), (inputs.c, weights.c_norm))
    )
    step = F.softplus(inputs.steps)
    y = selective_scan(ScanRows(step, step * inputs.x, b, c), weights.A, state, group) + weights.D * inputs.x
    return (y * F.silu(inputs.z.to(torch.float32))).to(inputs.z.dtype)


def selective_scan(rows: ScanRows, A: torch.Tensor, state: torch.Tensor, group: StateGroupBatch) -> torch.Tensor:
    """Return y [T, channels] without D x. Reads `state` [blocks, N, channels] at sources, writes it at targets."""

    def step(rows: ScanRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a row of each of S sequences. before: the states [S, N, channels]."""
        decay = (rows.step.unsqueeze(1) * A).exp()
        after = decay * before + rows.b.unsqueeze(2) * rows.v.unsqueeze(1)
        return (rows.c.unsqueeze(1) @ after).squeeze(1), after

    def chunk(rows: ScanRows, now: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.empty_like(rows.v)
        for row in range(len(y)):
            y[row : row + 1], after = step(ScanRows(*(tensor[row : row + 1] for tensor in rows)), now.unsqueeze(0))
            now = after[0]
        return y, now

    return scan_sequences(ChunkedScan(chunk, step), rows, state, group, torch.empty_like(rows.v))
