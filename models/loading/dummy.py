"""Assignment of random weights to a decoder's parameters, for --load-format dummy."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import nn

from models.checkpoints.base import StoredTensor
from models.checkpoints.dummy import DummyCheckpoint, draw_weights
from models.decoder import Decoder
from models.families.name_map import Destination
from models.layers.attention.qk_norm import OwnWeightsNorm
from models.layers.moe import Router
from models.layers.norm import Norm
from models.linear.linear import Linear
from models.linear.per_head import PerHeadLinear
from models.loading.assign import LOG_RATE, Assignment, filled_rows, parameter_parts

_MATRICES = Linear | PerHeadLinear | Router
_SPREAD = 0.3  # of parameters that are neither matrices nor norms: biases, taps, sinks, factors
_SLOW_DECAY = -2.0  # logarithm of a rate: states last for some ten tokens


def assign_dummies(
    decoder: Decoder, checkpoint: DummyCheckpoint, device: torch.device, source: str
) -> list[Assignment]:
    """Assign random numbers to every parameter, drawn on `device` when they are read.

    Rows keep about their size from layer to layer, as in a trained model, so that nothing overflows and experts are
    chosen about evenly. source: the configuration's file, for messages.
    """
    assignments = []
    for name, parameter in decoder.named_parameters():  # a tied head is not among them
        module_name, _, own_name = name.rpartition(".")
        module = decoder.get_submodule(module_name)
        center, reach = _range(module, name, parameter)
        for _, shard in parameter_parts(decoder, name):
            rows, dim = filled_rows(module, shard)
            shape = list(parameter.shape)
            if rows is not None:
                shape[dim] = rows[1]
            part = name if shard is None else f"{name}/{shard}"
            tensor = StoredTensor(
                name=part,
                shape=tuple(shape),
                format="dummy",
                num_bytes=math.prod(shape) * parameter.dtype.itemsize,
                file=Path(source),
                read=partial(draw_weights, checkpoint, part, shape, center, reach, device),
            )
            assignments.append(Assignment(tensor, Destination(module_name, own_name, shard, None, None), rows, dim))
    return assignments


def _range(module: nn.Module, name: str, parameter: torch.Tensor) -> tuple[float, float]:
    """Return the center of a parameter's numbers, and their largest distance from it."""
    if name.endswith(LOG_RATE):
        return _SLOW_DECAY, _SPREAD
    if name.endswith(".weight") and isinstance(module, Norm | OwnWeightsNorm):
        return 1.0, _SPREAD
    if name.endswith(".weight") and isinstance(module, _MATRICES):
        return 0.0, math.sqrt(3 / parameter.shape[-1])  # variance 1 / columns
    return 0.0, _SPREAD
