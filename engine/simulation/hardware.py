"""SimulatedModel: a model on one kind of hardware, as the simulator needs it."""

from dataclasses import dataclass

from engine.errors import OptionError
from engine.protocol import EngineRequest, SamplingParams
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.budget import CPU_STEPS, GPU_STEPS, StepBudget
from engine.scheduling.steps.work import ModelWork
from engine.simulation.costs import CARDS, CARDS_CHECKED, EFFICIENCY_SOURCE, Card, CardTimes, MeasuredTimes, StepSeconds

_TRIAL_TOKENS = 256  # of the prefill that an engine measures at its start


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """Sizes of a model, its memory on the hardware, and how long its steps take there.

    measured: times on the machine; None for a card, whose figures are published.
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

    @property
    def origin(self) -> str:
        """Origin of the hardware's figures, as results are marked with it."""
        return "measured" if self.measured is not None else "published"

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds in the group of layers with the smallest blocks."""
        return self.num_blocks * min((each.block_size for each in self.kv_groups if not each.is_state), default=0)

    def times(self) -> StepSeconds:
        return self.measured or CardTimes(find_card(self.hardware), self.work)

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


def find_card(name: str) -> Card:
    """Return a card by its name. Raises OptionError for a name that the table lacks."""
    if name not in CARDS:
        raise OptionError(
            f"there is no hardware {name!r}; choose this, a file of --save-hardware, or one of {', '.join(CARDS)}"
        )
    return CARDS[name]


def card_source(card: Card) -> str:
    return f"{card.source} (checked {CARDS_CHECKED}); efficiency: {EFFICIENCY_SOURCE}"
