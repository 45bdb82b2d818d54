"""The gated linear recurrent unit (LinearUnitSpec) in torch, over rows of several sequences that continue from a state.

A chunk is computed in as many steps as its number of rows has binary digits: in step s each row adds what the row 2^s
before it has gathered, decayed by what lies between them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.batch import StateGroupBatch
from models.kernels.operands import UnitInputs, UnitWeights
from models.kernels.torch.scan import ChunkedScan, scan_sequences, sequences_of_rows

DECAY_SCALE = 8.0


class UnitRows(NamedTuple):
    """Inputs of the recurrence in fp32, by row: h' = decay h + value."""

    decay: torch.Tensor  # [T, channels]
    value: torch.Tensor  # [T, channels]


def run_linear_unit(
    inputs: UnitInputs, weights: UnitWeights, state: torch.Tensor, group: StateGroupBatch
) -> torch.Tensor:
    """Run the recurrence, and the gate after it; RunLinearUnit in ops.py has the details."""
    x, input_gate, decay_gate, z = (tensor.to(torch.float32) for tensor in inputs)
    log_decay = -DECAY_SCALE * F.softplus(weights.rate) * torch.sigmoid(decay_gate + weights.decay_bias)
    factor = (-torch.expm1(2 * log_decay)).sqrt()
    sequences = sequences_of_rows(group)
    is_first = group.cu_seqlens[sequences] == torch.arange(len(x), device=x.device)
    factor = torch.where((is_first & (group.sources[sequences] < 0)).unsqueeze(1), 1.0, factor)
    rows = UnitRows(log_decay.exp(), factor * torch.sigmoid(input_gate + weights.input_bias) * x)
    return (linear_unit(rows, state, group) * F.gelu(z, approximate="tanh")).to(inputs.z.dtype)


def linear_unit(rows: UnitRows, state: torch.Tensor, group: StateGroupBatch) -> torch.Tensor:
    """Return h of all rows [T, channels]. Reads `state` [blocks, channels] at sources, writes it at targets."""
    return scan_sequences(ChunkedScan(_chunk, _single_rows), rows, state, group, torch.empty_like(rows.value))


def _chunk(rows: UnitRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    decay, h = rows
    distance = 1
    while distance < len(h):
        h = torch.cat((h[:distance], h[distance:] + decay[distance:] * h[:-distance]))
        decay = torch.cat((decay[:distance], decay[distance:] * decay[:-distance]))
        distance *= 2
    h = h + decay * before
    return h, h[-1]


def _single_rows(rows: UnitRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    h = rows.decay * before + rows.value
    return h, h
