"""Recurrences that replace attention in a layer."""

from dataclasses import dataclass

from models.architecture.norm import NormSpec


@dataclass(frozen=True, slots=True)
class ShortConvSpec:
    """A gated short convolution (LFM2): out(c * conv(b * v)) for the rows b, c, v = in_proj(x).

    conv is depthwise, over the row and the kernel_size - 1 rows before it, whose b * v are the layer's state.
    """

    num_channels: int
    kernel_size: int
    has_bias: bool = False  # of the convolution, in_proj and out


@dataclass(frozen=True, slots=True)
class GatedDeltaSpec:
    """Linear attention by the gated delta rule (Yang et al. 2024; Qwen3-Next).

    The state of a head is a matrix S that maps keys to values. Each row decays it by a, corrects its value for the
    row's key by the fraction b, and reads it with the row's query:

        S' = a S,   S'' = S' + k (b (v - k^T S'))^T,   y = q^T S''

    q, k and v have passed a short convolution (its last kernel_size - 1 inputs are state, too) and SiLU; q and k have
    length 1. a = exp(-exp(A_log) softplus(in_a(x) + dt_bias)), b = sigmoid(in_b(x)). The output is
    out(norm(y) * silu(z)) with z = in_z(x). Several value heads share a key head.
    """

    num_key_heads: int
    num_value_heads: int
    key_dim: int  # of a head
    value_dim: int
    kernel_size: int
    norm: NormSpec  # over a head
    tiles_key_heads: bool = False  # GGUF: value head h uses key head h % num_key_heads; else neighbors share

    @property
    def conv_size(self) -> int:
        """Channels of q, k and v together."""
        return 2 * self.num_key_heads * self.key_dim + self.value_size

    @property
    def value_size(self) -> int:
        return self.num_value_heads * self.value_dim


RecurrenceSpec = ShortConvSpec | GatedDeltaSpec
