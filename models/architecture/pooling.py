"""Pooling of a text's hidden states to one vector, and the heads that score texts."""

import enum
from dataclasses import dataclass

from models.architecture.feed_forward import Activation
from models.architecture.norm import NormSpec


class TokenPooling(enum.Enum):
    """Pooling of the last hidden states of a text's tokens to one vector."""

    MEAN = enum.auto()
    CLS = enum.auto()  # the first token's hidden state
    LAST = enum.auto()
    MAX = enum.auto()  # the largest number of each dimension
    MEAN_SQRT_LENGTH = enum.auto()  # the sum, divided by the square root of the number of tokens
    WEIGHTED_MEAN = enum.auto()  # a mean in which the n-th token has the weight n


@dataclass(frozen=True, slots=True)
class ScoreHeadSpec:
    """A head that scores a text: out(norm(activation(dense(pooled)))), without the parts that are None."""

    num_labels: int
    pooling: TokenPooling
    dense_activation: Activation | None = None  # None: no dense layer
    has_dense_bias: bool = True
    norm: NormSpec | None = None
    has_bias: bool = True
