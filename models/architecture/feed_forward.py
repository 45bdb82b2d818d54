"""Feed-forward networks: one for all rows (MLPSpec), or experts that a router chooses for each row (MoESpec)."""

import dataclasses
import enum
from dataclasses import dataclass

from models.architecture.norm import NormSpec


class Activation(enum.Enum):
    SILU = enum.auto()
    GELU = enum.auto()  # x * Phi(x), exactly
    GELU_TANH = enum.auto()
    GELU_QUICK = enum.auto()  # x * sigmoid(1.702 x)
    RELU = enum.auto()
    RELU_SQUARED = enum.auto()
    TANH = enum.auto()  # only in heads that score texts
    XIELU = enum.auto()  # with four learned numbers; not gated: Apertus


@dataclass(frozen=True, slots=True)
class SwigluClamp:
    """A clamped SwiGLU (gpt-oss): gate * sigmoid(alpha * gate) * (up + 1), gate at most `limit`, up within +-limit."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class GateScales:
    """Factors in a SiLU-gated MLP: down(out * silu(gate * (W_gate x)) * W_up x)."""

    gate: float
    out: float


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """An MLP: down(act(gate x) * up x) if gated, else down(act(up x)); with `inner_norm`, down(norm(...))."""

    intermediate_size: int
    activation: Activation
    is_gated: bool
    has_up_bias: bool = False  # in a gated MLP, the gate projection has a bias, too
    has_down_bias: bool = False
    clamp: SwigluClamp | None = None  # in place of the activation
    scales: GateScales | None = None  # with SiLU
    inner_norm: NormSpec | None = None  # BitNet; not in experts
    # Of a normal distribution with a row's mean and deviation of gates, this share is cut to 0, and the cut subtracted
    # from the rest, before the activation: Gemma 3n.
    gate_sparsity: float = 0.0

    def with_size(self, size: int) -> "MLPSpec":
        return dataclasses.replace(self, intermediate_size=size)


class RouterScore(enum.Enum):
    """Functions that turn router logits into scores."""

    SOFTMAX = enum.auto()
    SIGMOID = enum.auto()
    # Experts are chosen in turn; each weight is a softmax over the logits that are near the best one left: Phi-MoE.
    SPARSEMIXER = enum.auto()


class GroupScore(enum.Enum):
    """Rules that score a group of experts."""

    BEST = enum.auto()  # by its best expert: DeepSeek V2
    BEST_TWO = enum.auto()  # by the sum of its best two: DeepSeek V3


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """The router of an MoE layer: selects each row's experts and weights their outputs.

    score(W x + b) scores the experts; `correction`, a bias learned for balance, affects the selection but not the
    weights. A softmax over only the chosen logits is SOFTMAX with `renormalizes`.
    """

    score: RouterScore
    experts_per_token: int
    renormalizes: bool  # the weights of the chosen experts sum to 1
    sum_floor: float = 1e-20  # weights are divided by their sum, but never by less
    has_bias: bool = False
    has_correction: bool = False
    num_groups: int = 1  # of experts; only experts in the best groups can be chosen
    groups_per_token: int = 1
    group_score: GroupScore = GroupScore.BEST
    scale: float = 1.0  # of the weights, applied last
    jitter: float = 0.01  # of SPARSEMIXER: a logit is near the best by at most 2 * jitter of the larger of both
    scales_input: bool = False  # weights multiply an expert's input, not its output: Llama 4
    norm: NormSpec | None = None  # of the router's input, which experts then do not share: Gemma 4
    has_expert_scale: bool = False  # a learned factor of each expert's weights, after all else: Gemma 4


@dataclass(frozen=True, slots=True)
class MoESpec:
    """A mixture of experts: the weighted sum of the selected experts' outputs, plus the output of a shared expert.

    With `latent_size`, a matrix brings rows to that size, in which the selected experts compute, and another one brings
    their sum back; the router and the shared expert take the rows as they are.
    """

    num_experts: int
    expert: MLPSpec
    router: RouterSpec
    shared: MLPSpec | None = None
    has_shared_gate: bool = False  # shared output times sigmoid(w . x): Qwen2-MoE
    latent_size: int | None = None  # Nemotron 3 Super
    has_latent_bias: bool = False

    def contradiction(self) -> str | None:
        """Return why routing cannot work, such as more experts per token than exist, or None. Kernels do not check."""
        router, size = self.router, self.num_experts // self.router.num_groups
        if self.num_experts % router.num_groups or router.groups_per_token > router.num_groups:
            chosen = f"{router.groups_per_token} of {router.num_groups} groups"
            return f"{chosen} cannot be chosen from {self.num_experts} experts"
        if router.group_score is GroupScore.BEST_TWO and router.num_groups > 1 and size < 2:
            return (
                f"groups are rated by two experts, and {router.num_groups} groups of {self.num_experts} have one each"
            )
        if router.experts_per_token > size * router.groups_per_token:
            return f"{router.experts_per_token} experts a token are more than {size * router.groups_per_token}"
        return None
