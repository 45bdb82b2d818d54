"""Feed-forward networks: one for all rows (MLPSpec), or experts that a router chooses for each row (MoESpec)."""

import enum
from dataclasses import dataclass


class Activation(enum.Enum):
    SILU = enum.auto()
    GELU = enum.auto()  # x * Phi(x), exactly
    GELU_TANH = enum.auto()
    GELU_QUICK = enum.auto()  # x * sigmoid(1.702 x)
    RELU = enum.auto()
    RELU_SQUARED = enum.auto()
    TANH = enum.auto()  # of heads that score texts, alone


@dataclass(frozen=True, slots=True)
class SwigluClamp:
    """gate * sigmoid(alpha * gate) * (up + 1), gate at most `limit` and up within +-limit (gpt-oss)."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """down(act(gate x) * up x) if gated, else down(act(up x))."""

    intermediate_size: int
    activation: Activation
    is_gated: bool
    has_up_bias: bool = False  # and gate bias
    has_down_bias: bool = False
    clamp: SwigluClamp | None = None  # in place of the activation


class RouterScore(enum.Enum):
    """How the router's logits become scores."""

    SOFTMAX = enum.auto()
    SIGMOID = enum.auto()


class GroupScore(enum.Enum):
    """How a group of experts is scored."""

    BEST = enum.auto()  # by its best expert: DeepSeek V2
    BEST_TWO = enum.auto()  # by the sum of its best two: DeepSeek V3


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """Choice of a row's experts, and their weights.

    score(W x + b) scores the experts; `correction`, a bias learned for balance, takes part in the choice but not in the
    weights. A softmax over only the chosen logits is SOFTMAX with `renormalizes`.
    """

    score: RouterScore
    experts_per_token: int
    renormalizes: bool  # weights of the chosen sum to 1
    has_bias: bool = False
    has_correction: bool = False
    num_groups: int = 1  # of experts; only experts in the best groups can be chosen
    groups_per_token: int = 1
    group_score: GroupScore = GroupScore.BEST
    scale: float = 1.0  # of the weights, applied last
    scales_input: bool = False  # weights multiply an expert's input, not its output: Llama 4


@dataclass(frozen=True, slots=True)
class MoESpec:
    """Weighted sum of the chosen experts' outputs, plus the output of the shared expert, which gets every row."""

    num_experts: int
    expert: MLPSpec
    router: RouterSpec
    shared: MLPSpec | None = None
    has_shared_gate: bool = False  # shared output times sigmoid(w . x): Qwen2-MoE

    def contradiction(self) -> str | None:
        """Return why no row can be routed with these numbers, or None. Kernels do not check them again."""
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
