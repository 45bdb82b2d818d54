"""SimulatedModel: a model on one kind of hardware, as the simulator needs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from engine.errors import OptionError
from engine.protocol import EngineRequest, SamplingParams
from engine.scheduling.kv.groups import KVGroup, peak_blocks
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.budget import CPU_STEPS, GPU_STEPS, StepBudget
from engine.scheduling.steps.work import ModelWork
from engine.simulation.costs import CARDS, CARDS_CHECKED, EFFICIENCY_SOURCE, Card, CardTimes, MeasuredTimes, StepSeconds

_MOST = 2**53  # of any number in a file
_LIMITS = {"num_blocks": (1, 2**27), "num_states": (0, 2**27), "max_model_len": (1, _MOST), "block_size": (1, _MOST)}
_TRIAL_TOKENS = 256  # of the prefill that an engine measures at its start


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """Sizes of a model, its memory on the hardware, and how long its steps take there.

    measured: times of steps on the machine; None for a card, whose figures are published, and for `limits`. limits: of
    this machine, measured, from which times are modeled as for a card.
    """

    model: str
    hardware: str
    source: str  # of the hardware's figures, with the date of its check or measurement
    work: ModelWork
    kv_groups: tuple[KVGroup, ...]
    num_blocks: int
    num_states: int
    max_model_len: int
    is_gpu: bool
    weight_bytes: int
    kv_bytes: int
    measured: MeasuredTimes | None = None
    limits: Card | None = None

    @property
    def origin(self) -> str:
        """Origin of the hardware's figures, as results are marked with it."""
        if self.measured is not None:
            return "measured"
        return "published" if self.limits is None else "measured limits"

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds in the group of layers with the smallest blocks."""
        return self.num_blocks * self.block_size

    @property
    def block_size(self) -> int:
        """Tokens of the smallest block with keys and values; 0 without such blocks."""
        return min((each.block_size for each in self.kv_groups if not each.is_state), default=0)

    def times(self) -> StepSeconds:
        return self.measured or CardTimes(self.limits or find_card(self.hardware), self.work)

    def budget(self, num_tokens: int | None, batch_step_s: float) -> StepBudget:
        """Return the budget with which an engine on this hardware would start. num_tokens: a fixed limit."""
        times = self.times()
        num_trial = min(_TRIAL_TOKENS, self.max_model_len)
        prefill_s = times.step_s(self.work.demand(_trial_plan(0, num_trial)))
        decode_s = times.step_s(self.work.demand(_trial_plan(num_trial - 1, 1)))
        return StepBudget(
            num_tokens,
            prefill_s / num_trial,
            self.work.position_cost,
            self.work.row_cost,
            decode_s=decode_s,
            batch_step_s=batch_step_s,
            targets=GPU_STEPS if self.is_gpu else CPU_STEPS,
        )


def _trial_plan(start: int, num_new: int) -> StepPlan:
    request = EngineRequest(id="trial", prompt_ids=[0], sampling=SamplingParams(max_tokens=1), arrival_s=0.0)
    trial = Sequence(request=request, seed=0, tokens=[0], num_prompt=1)
    return StepPlan([PlanItem(trial, start, num_new, num_draft=0, needs_logits=True)])


def model_faults(model: SimulatedModel) -> Iterator[str]:
    """Yield the faults of a model from a file, which may have been edited by hand."""
    for path, number in _numbers(msgspec.to_builtins(model)):
        low, high = _LIMITS.get(path.rpartition(".")[2], (0, _MOST))
        if not low <= number <= high:
            yield f"{path} is {number}; it must be {low} to {high}"
    if model.measured is None and model.limits is None and model.hardware not in CARDS:
        yield f"measured is null, and hardware is {model.hardware!r}; it must be one of {', '.join(CARDS)}"
    for name in ("rows_s", "sequences_s") if model.measured is not None else ():
        numbers = [point[0] for point in getattr(model.measured, name)]
        if not numbers or any(low >= high for low, high in pairwise(numbers)):
            yield f"the numbers of measured.{name} are {numbers}; they must rise, and there must be one"
    for experts in (*model.work.every.experts, *model.work.late.experts, *model.work.head.experts):
        if not 1 <= experts.num_chosen <= experts.num_experts:
            yield f"num_chosen is {experts.num_chosen} of {experts.num_experts} experts; it must be at least 1 of them"
    if not model.kv_groups or any(each.window == 0 for each in model.kv_groups):
        yield "kv_groups must have at least one group, and no window of 0"
    elif (needed := peak_blocks(model.kv_groups, model.max_model_len)) > model.num_blocks:
        yield f"num_blocks is {model.num_blocks}; a request of max_model_len {model.max_model_len} needs {needed}"
    if not model.num_states and any(each.is_state for each in model.kv_groups):
        yield "num_states is 0; kv_groups with is_state need at least 1"


def _numbers(value: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of nested builtins, with their paths."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _numbers(each, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _numbers(each, f"{path}[{index}]")
    elif isinstance(value, int | float):
        yield path, value


def find_card(name: str) -> Card:
    """Return a card by its name. Raises OptionError for a name that the table lacks."""
    if name not in CARDS:
        raise OptionError(
            f"there is no hardware {name!r}; choose this, a file of --save-hardware, or one of {', '.join(CARDS)}"
        )
    return CARDS[name]


def card_source(card: Card) -> str:
    return f"{card.source} (checked {CARDS_CHECKED}); efficiency: {EFFICIENCY_SOURCE}"
