"""make_mixer: a layer's attention, or the recurrence in its place, by its LayerSpec."""

from torch import nn

from models.architecture.attention import AttentionSpec
from models.architecture.layer import LayerSpec
from models.architecture.recurrence import (
    GatedDeltaSpec,
    GeneralizedDeltaSpec,
    LinearUnitSpec,
    RecurrenceSpec,
    SelectiveScanSpec,
    ShortConvSpec,
    StateSpaceSpec,
)
from models.compute import ComputeConfig
from models.layers.attention.attention import Attention
from models.layers.attention.latent_attention import LatentAttention
from models.layers.attention.shared_attention import SharedAttention
from models.layers.recurrence.gated_delta import GatedDelta
from models.layers.recurrence.generalized_delta import GeneralizedDelta
from models.layers.recurrence.linear_unit import LinearUnit
from models.layers.recurrence.recurrence import Recurrence
from models.layers.recurrence.selective_scan import SelectiveScan
from models.layers.recurrence.short_conv import ShortConv
from models.layers.recurrence.state_space import StateSpace
from models.linear.method import LinearMethod


def make_mixer(spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> nn.Module:
    """Make the layer's attention, or the recurrence that replaces it."""
    assert spec.mixer is not None
    if not isinstance(spec.mixer, AttentionSpec):
        return _make_recurrence(spec.mixer, hidden_size, compute=compute, method=method)
    if spec.kv_layer is not None:
        assert spec.latent is None
        return SharedAttention(spec, hidden_size, compute=compute, method=method)
    if spec.latent is not None:
        return LatentAttention(spec, hidden_size, compute=compute, method=method)
    return Attention(spec, hidden_size, compute=compute, method=method)


def _make_recurrence(
    spec: RecurrenceSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod
) -> Recurrence:
    match spec:
        case ShortConvSpec():
            return ShortConv(spec, hidden_size, compute=compute, method=method)
        case GatedDeltaSpec():
            return GatedDelta(spec, hidden_size, compute=compute, method=method)
        case StateSpaceSpec():
            return StateSpace(spec, hidden_size, compute=compute, method=method)
        case SelectiveScanSpec():
            return SelectiveScan(spec, hidden_size, compute=compute, method=method)
        case LinearUnitSpec():
            return LinearUnit(spec, hidden_size, compute=compute, method=method)
        case GeneralizedDeltaSpec():
            return GeneralizedDelta(spec, hidden_size, compute=compute, method=method)
