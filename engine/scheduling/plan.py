"""StepPlan: the work of one forward pass, and StepResult: its outcome."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from engine.protocol import TokenLogprobs
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.kv.moves import BlockMoves
from engine.scheduling.kv.tails import TailCopy
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.cost import StepSample


class PlanItem(NamedTuple):
    """The tokens of one sequence that a step computes: `num_new` tokens from position `start` on.

    `needs_logits`: the step computes the sequence up to its end, so the next token is sampled. Requests with
    prompt_logprobs also get logits for their prompt rows. A tuple, like RowResult: each step makes one for every
    sequence, and a frozen dataclass takes four times as long to make.
    """

    sequence: Sequence
    start: int  # num_computed when the step was planned
    num_new: int
    num_draft: int  # number of unverified draft tokens, the last of the `num_new` tokens
    needs_logits: bool

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + self.num_new

    @property
    def num_certain(self) -> int:
        """Number of the sequence's tokens that are computed after the step, even if the whole draft is rejected."""
        return self.start + self.num_new - self.num_draft

    @property
    def is_prompt(self) -> bool:
        """Whether the item is a prefill: part of a prompt, be it the last token alone, or tokens that a preemption
        lost."""
        return self.num_new - self.num_draft > 1 or not self.needs_logits or self.start < self.sequence.num_prompt


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The items of a step in batch order, which is deterministic so that a step is reproducible. Items with the same
    adapter slot are neighbors, since kernels compute their rows together."""

    items: list[PlanItem]
    moves: BlockMoves | None = None  # copies of blocks to and from a tier, which precede the step
    copies: list[TailCopy] = field(default_factory=list)  # made when the step is launched: all read, then all written
    # For each item, the logits row of the step launched before that samples its token; None: the host knows all tokens.
    token_rows: list[int] | None = None

    @property
    def num_tokens(self) -> int:
        return sum([item.num_new for item in self.items])  # a list is faster, and this runs for every step

    def sample(self, step_s: float) -> StepSample:
        """Return the step as a measurement for StepBudget. step_s: the seconds that the step took."""
        prompts = [item for item in self.items if item.is_prompt]
        is_batch = bool(self.items) and self.items[0].sequence.service.fills_idle_steps
        if not prompts:
            return StepSample(self.num_tokens, 0, 0.0, step_s, is_batch=is_batch)
        num_prompt = sum(item.num_new for item in prompts)
        distance = sum(item.num_new * (item.start + item.num_new / 2) for item in prompts)
        num_rows = sum(item.needs_logits for item in prompts)
        position = distance / num_prompt
        return StepSample(self.num_tokens, num_prompt, position, step_s, len(prompts), num_rows, is_batch)

    @property
    def is_decoding(self) -> bool:
        """Whether every sequence computes one token and its draft, and gets a token."""
        return all(needs_logits and num_new - num_draft == 1 for _, _, num_new, num_draft, needs_logits in self.items)


class RowResult(NamedTuple):
    """The result of one plan item. `token_ids` is empty if the item needed no logits; with a draft it holds the
    accepted draft tokens and one more. `error` ends only this sequence; `refused_param` names the request parameter
    that caused the error, and `is_corrupted` says that the model's output was not finite."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None  # for the prompt token after each of the item's rows
    error: str | None = None
    refused_param: str | None = None
    is_corrupted: bool = False


class StepWork(NamedTuple):
    """Lower bounds on the work of a forward pass: bytes read and written, and multiplications and additions."""

    read_bytes: int
    write_bytes: int
    flops: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """The results of a step: one RowResult per item, in order. `is_representative`: later steps of this kind will take
    as long; false if the step failed, or recorded a tape of native calls. The other fields are statistics, named as in
    StepStats."""

    rows: list[RowResult]
    is_representative: bool = True
    expert_rows: list[int] = field(default_factory=list)
    expert_imbalance: float | None = None
    num_masks: int = 0
    mask_s: float = 0.0
    sample_s: float = 0.0
    work: StepWork | None = None


Pending = TypeVar("Pending")


class Runner(Protocol[Pending]):
    """Computes plans. TorchRunner uses a model; tests use a fake that checks every KV slot.

    Steps are collected in the order in which they are launched, and computed in this order. `launch` reads sequences,
    `collect` only `pending`: a sequence may have advanced or ended by then. Grammars stay as they are until the step is
    collected. At most one step is launched before the one before it is collected, and only if `can_feed` allows it.
    """

    kv_groups: tuple[KVGroup, ...]  # one for each table of a sequence
    copies_blocks: bool  # whether it can make a plan's copies

    def launch(self, plan: StepPlan) -> Pending:
        """Start computing a plan, without waiting for the device."""

    def can_feed(self, pending: Pending, /) -> bool:
        """Whether a step can be launched that continues each sequence by the token that `pending`, the last step
        launched, samples for it: the device must have the token, and the host need not know it."""

    def collect(self, pending: Pending, /) -> StepResult:
        """Wait for a step and return its result."""

    def release(self, sequence: Sequence) -> None:
        """Forget the state of a finished sequence."""


def run_step(runner: Runner[Pending], plan: StepPlan) -> StepResult:
    """Compute a plan and return its result."""
    return runner.collect(runner.launch(plan))
