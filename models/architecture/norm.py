"""NormSpec: an RMSNorm or LayerNorm."""

import enum
from dataclasses import dataclass


class NormKind(enum.Enum):
    RMS = enum.auto()
    LAYER = enum.auto()  # mean subtracted


@dataclass(frozen=True, slots=True)
class NormSpec:
    kind: NormKind
    eps: float
    has_weight: bool = True
    has_bias: bool = False
