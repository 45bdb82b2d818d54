"""StepBudget: how many tokens a step has, from how long steps take."""

import random

import pytest

from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.budget import GPU_STEPS, StepBudget
from engine.scheduling.steps.cost import PromptCost, StepPrediction, StepSample
from tests.helpers.engines import make_request

pytestmark = pytest.mark.fast


def observe_steps(
    budget: StepBudget, num_prompt_tokens: int, step_s: float, *, position: float = 0, times: int = 1
) -> None:
    for _ in range(times):
        budget.observe(StepSample(num_prompt_tokens, num_prompt_tokens, position, step_s))


def test_a_number_that_was_set_stays() -> None:
    budget = StepBudget(100)

    observe_steps(budget, 100, 100.0)

    num_tokens = (budget.tokens(0), budget.tokens(50), budget.max_tokens)
    assert (num_tokens, budget.costs(50)(9000)) == ((100, 100, 100), PromptCost())


@pytest.mark.parametrize(
    ("tokens_per_second", "alone", "beside"),
    [
        (10_000, 4992, 689),  # what takes 500 and 70 ms, down to a whole 16, and a token for the one that generates
        (1024, 512, 65),
        (1_000_000, 8192, 8192),
    ],
)
def test_steps_are_shorter_while_sequences_generate(tokens_per_second: float, alone: int, beside: int) -> None:
    budget = StepBudget(None, 1 / tokens_per_second)

    assert (budget.tokens(0), budget.tokens(1)) == (alone, beside)
    assert budget.tokens(0) <= budget.max_tokens


@pytest.mark.parametrize(
    ("tokens_per_second", "alone", "beside"),
    [
        (57_000, 8192, 2817),  # an 8B model on an H100: 50 ms, down to a whole 128, and a token
        (10_000, 1408, 501),  # fewer than four times 128 are no multiple
        (1_000, 256, 51),
    ],
)
def test_steps_of_a_gpu_are_shorter_and_whole_tiles(tokens_per_second: float, alone: int, beside: int) -> None:
    budget = StepBudget(None, 1 / tokens_per_second, targets=GPU_STEPS)

    assert (budget.tokens(0), budget.tokens(1)) == (alone, beside)
    assert budget.most_s < 0.1


@pytest.mark.parametrize("num_generating", [1, 1000])
def test_prompts_get_on_beside_any_number_of_generating_sequences(num_generating: int) -> None:
    assert StepBudget(None, seconds_per_token=1.0).tokens(num_generating) == num_generating + 8


def test_steps_without_streams_have_enough_rows_for_the_kernels() -> None:
    assert StepBudget(None, seconds_per_token=1.0).tokens(0) == 128


@pytest.mark.parametrize("position", [0, 8_000, 67_000, 1_000_000])
def test_far_into_a_prompt_a_step_without_streams_still_has_rows_for_the_kernels(position: int) -> None:
    budget = StepBudget(None, 1 / 250, 1 / 8192)
    limit = budget.tokens(0)

    def fits(costs: PromptCost, num_tokens: int) -> bool:
        return num_tokens * costs.token + costs.context <= limit

    alone, beside = budget.costs(0)(position), budget.costs(1)(position)
    assert fits(alone, 32)
    assert fits(alone, 33) == (position < 20_000)
    assert not fits(alone, limit + 1)
    assert fits(beside, 32) == (position < 20_000)


def test_speed_is_learned_from_steps_with_prompts() -> None:
    budget = StepBudget(None, seconds_per_token=1e-2)

    observe_steps(budget, 512, 0.512, times=30)

    assert budget.tokens(0) == pytest.approx(500, abs=20)
    observe_steps(budget, 512, 1.024, times=60)
    assert budget.tokens(0) == pytest.approx(250, abs=20)


def test_a_disturbed_step_shortens_the_next_ones_little() -> None:
    budget = StepBudget(None, seconds_per_token=1e-3)

    observe_steps(budget, 500, 2.5)

    assert budget.tokens(0) == 416


def test_short_prompts_beside_many_streams_make_later_steps_no_longer() -> None:
    """Their time is less than the variation of the streams' time."""
    source, budget = random.Random(1), StepBudget(None, seconds_per_token=1e-3)
    for _ in range(300):
        observe_steps(budget, 0, 0.1 * source.uniform(0.85, 1.15))
        observe_steps(budget, 10, 0.01 + 0.1 * source.uniform(0.85, 1.15))

    assert 75 <= budget.tokens(64) - 64 <= 225  # 150 ms are left for prompts


def test_steps_that_are_shorter_than_generation_was_say_nothing_of_prompts() -> None:
    """For example when most streams have ended together."""
    budget = StepBudget(None, seconds_per_token=1e-3)
    observe_steps(budget, 0, 0.1, times=30)

    observe_steps(budget, 10, 0.02, times=20)

    assert budget.tokens(1) <= 1 + 150


def test_a_step_with_one_token_of_a_prompt_is_none_that_only_generates() -> None:
    sequence = Sequence(request=make_request("a", [1] * 100), seed=0, tokens=[1] * 100, num_prompt=100)

    assert StepPlan([PlanItem(sequence, 50, 1, 0, needs_logits=False)]).sample(0.1) == StepSample(1, 1, 50.5, 0.1)


def test_the_last_token_of_a_prompt_is_none_of_an_answer() -> None:
    """As the rows of a decision's labels are, hundreds a step."""
    sequence = Sequence(request=make_request("a", [1] * 100), seed=0, tokens=[1] * 100, num_prompt=100)

    sample = StepPlan([PlanItem(sequence, 99, 1, 0, needs_logits=True)]).sample(0.1)

    assert sample == StepSample(1, 1, 99.5, 0.1, num_rows=1)


def test_rows_of_logits_are_known_to_take_time() -> None:
    budget = StepBudget(None, 1e-3, row_cost=0.5)
    num_tokens = budget.tokens(0)

    for _ in range(20):
        budget.observe(StepSample(64, 64, 0.0, 64 * 1.5e-3, num_prompts=64, num_rows=64))

    assert budget.tokens(0) == num_tokens
    assert budget.costs(0)(0).row == 0.5


def test_a_token_far_into_a_prompt_teaches_what_it_costs() -> None:
    """One a step is all there is room for, and an estimate that is too high would stay."""
    budget = StepBudget(None, seconds_per_token=1e-3, position_cost=1e-2)
    observe_steps(budget, 0, 0.01, times=20)
    assert budget.costs(1)(10_000).token > 100

    observe_steps(budget, 1, 0.012, position=10_000, times=40)

    assert budget.costs(1)(10_000).token <= 10  # so that a step has several


def test_where_a_step_that_only_generates_takes_long_prompts_lengthen_it_in_proportion() -> None:
    budget = StepBudget(None, seconds_per_token=1e-3)

    observe_steps(budget, 0, 0.2, times=5)

    assert budget.target_s(4) == pytest.approx(0.5)
    assert budget.tokens(4) == 4 + 288  # in the 300 ms that are left


class Machine:
    """Takes a known time for a step, give or take what others on the machine take from it."""

    def __init__(
        self,
        *,
        decode_s: float,
        token_s: float,
        far_s: float,
        noise: float = 0.0,
        read_part: float = 1.0,
    ) -> None:
        """read_part: what reading all before a prompt's tokens takes, once a step, over what one of them takes for it
        beside."""
        self.decode_s, self.token_s, self.far_s, self.noise = decode_s, token_s, far_s, noise
        self.read_part = read_part
        self._rng = random.Random(1)

    def step(self, budget: StepBudget, num_generating: int, position: int, num_left: int) -> tuple[int, float]:
        """One step of a prompt; returns its tokens and its seconds."""
        cost = budget.costs(num_generating)(position)
        num_prompt_tokens = budget.tokens(num_generating) - num_generating - cost.context
        num_tokens = min(num_left, max(1, int(num_prompt_tokens / cost.token + 1e-6)))
        far_s = self.far_s * (position + num_tokens / 2) / 10_000
        step_s = self.decode_s + num_tokens * (self.token_s + far_s) + self.read_part * far_s
        step_s *= 1 + self.noise * self._rng.random()
        budget.observe(StepSample(num_tokens + num_generating, num_tokens, position + num_tokens / 2, step_s))
        return num_tokens, step_s

    def prefill(self, budget: StepBudget, num_generating: int, *, begin: int = 0, end: int = 30_000) -> list[float]:
        """The seconds of each step of a prompt with `begin` cached tokens."""
        position, steps = begin, []
        while position < end:
            num_tokens, step_s = self.step(budget, num_generating, position, end - position)
            position += num_tokens
            steps.append(step_s)
        return steps


@pytest.mark.parametrize("decode_s", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("read_part", [0.0, 1.0, 2.0])
def test_gaps_beside_a_long_prompt_are_short_and_it_keeps_half_its_rate(
    decode_s: float, noise: float, read_part: float
) -> None:
    """30,000 tokens; the last takes five times as long as the first."""
    machine = Machine(decode_s=decode_s, token_s=1e-3, far_s=1.4e-3, noise=noise, read_part=read_part)
    alone_s = sum(machine.prefill(StepBudget(None, 1e-3), 0))
    budget = StepBudget(None, 1e-3)
    observe_steps(budget, 0, decode_s, times=20)

    steps = sorted(machine.prefill(budget, 4))

    assert steps[int(0.99 * len(steps))] <= max(0.1, 3 * decode_s)
    assert alone_s / sum(steps) >= 0.5


def test_a_prompt_keeps_half_its_rate_where_few_of_its_tokens_fit_a_step() -> None:
    """Measured on a small model and two cores: reading the 29,000 tokens before takes as long as one more token."""
    machine = Machine(decode_s=0.011, token_s=1.3e-3, far_s=4e-3, read_part=1.2)
    alone_s = sum(machine.prefill(StepBudget(None, 1.3e-3), 0, begin=28_000))
    budget = StepBudget(None, 1.3e-3)
    observe_steps(budget, 0, machine.decode_s, times=20)
    machine.prefill(budget, 4, begin=20_000, end=21_000)

    steps = machine.prefill(budget, 4, begin=28_000)

    assert max(steps) <= 0.1
    assert alone_s / sum(steps) >= 0.5


def test_a_step_is_somewhat_longer_where_its_prompt_would_have_less_than_half_its_rate_else() -> None:
    """With 18 ms of streams and 17 of reading, one token of 18 ms fits in 70 ms, and two are half of 71."""
    machine = Machine(decode_s=0.018, token_s=1e-3, far_s=5.7e-3)
    alone_s = sum(machine.prefill(StepBudget(None, 1e-3), 0, begin=29_000))
    budget = StepBudget(None, 1e-3)
    observe_steps(budget, 0, machine.decode_s, times=20)
    machine.prefill(budget, 4, begin=28_000)

    steps = machine.prefill(budget, 4, begin=29_000)

    assert max(steps) <= 0.1
    assert alone_s / sum(steps) >= 0.5


def test_several_prompts_in_a_step_read_what_is_before_each() -> None:
    budget = StepBudget(None, 1e-3, position_cost=1e-4)
    budget.observe(StepSample(8, 8, 10_000, 8e-3 + (8 + 2 * 4) * 1.5e-3, num_prompts=4))
    assert budget.costs(0)(10_000) == pytest.approx(StepBudget(None, 1e-3, position_cost=1e-4).costs(0)(10_000))


@pytest.mark.parametrize("misjudged", [0.5, 1.0, 2.0])
def test_what_a_model_says_of_positions_makes_the_first_steps_near_to_right(misjudged: float) -> None:
    machine = Machine(decode_s=0.02, token_s=1e-3, far_s=1.4e-3, noise=0.1)
    budget = StepBudget(None, 1e-3, position_cost=misjudged * 0.7e-4)
    observe_steps(budget, 0, machine.decode_s, times=20)

    steps = machine.prefill(budget, 4, begin=28_000, end=29_000)

    assert steps[0] <= 0.15
    assert max(steps[10:]) <= 0.1


def test_what_a_position_costs_is_learned_from_the_first_step_far_into_a_prompt() -> None:
    """One whose beginning is cached; what is known before is an estimate, and may be half of the truth."""
    machine = Machine(decode_s=0.019, token_s=2.7e-3, far_s=8e-3, read_part=1.2)
    budget = StepBudget(None, 2.7e-3, position_cost=0.25 * 3e-4)
    observe_steps(budget, 0, machine.decode_s, times=20)

    steps = machine.prefill(budget, 4, begin=28_000, end=28_100)

    assert max(steps[2:]) <= 0.1


def test_the_cost_of_a_position_is_known_to_the_next_prompt() -> None:
    """One whose beginning is cached begins far: its first step is no longer than the others."""
    machine = Machine(decode_s=0.02, token_s=1e-3, far_s=1.4e-3, noise=0.1)
    budget = StepBudget(None, 1e-3)
    observe_steps(budget, 0, machine.decode_s, times=20)
    machine.prefill(budget, 4)
    machine.prefill(budget, 4, end=2000)

    steps = machine.prefill(budget, 4, begin=28_000, end=29_000)

    assert max(steps) <= 0.1


def test_a_shortage_of_memory_halves_steps_until_they_suffice_for_a_while() -> None:
    budget = StepBudget(100)
    assert budget.shrink(90)
    assert budget.tokens(0) == 45
    observe_steps(budget, 44, 1.0)  # says nothing of steps of 45
    for _ in range(15):
        observe_steps(budget, 45, 1.0)
    assert budget.tokens(0) == 45
    observe_steps(budget, 45, 1.0)
    assert budget.tokens(0) == 90
    assert budget.shrink(90)  # too much still
    for _ in range(31):
        observe_steps(budget, 45, 1.0)
    assert budget.tokens(0) == 45, "the second time it takes twice as long"
    for _ in range(1 + 32):
        observe_steps(budget, budget.tokens(0), 1.0)
    assert budget.tokens(0) == 100


def test_a_step_of_one_token_cannot_be_smaller() -> None:
    budget = StepBudget(None, 0.001)
    assert budget.shrink(3)
    assert budget.tokens(5) == 1
    assert not budget.shrink(1)


def test_a_step_was_predicted_by_what_was_known_before_it() -> None:
    budget = StepBudget(None, 1e-3, batch_step_s=0.1, decode_s=0.01)
    steps = [
        StepSample(1, 0, 0.0, 0.02),  # nothing generated before
        StepSample(1, 0, 0.0, 0.03),
        StepSample(101, 100, 0.0, 0.13),
        StepSample(4, 0, 0.0, 0.05, is_batch=True),
    ]
    found = []
    for step in steps:
        budget.observe(step)
        found.append(budget.take_prediction())
    assert found[0] == StepPrediction()
    assert found[1] == StepPrediction(pytest.approx(0.02), 0.03)
    assert found[2] == StepPrediction(pytest.approx(0.021 + 0.1), 0.13)
    assert found[3].measured_s == 0.05
    assert 0.01 < found[3].predicted_s < 0.05
    assert budget.take_prediction() == StepPrediction()


def test_without_a_measured_cost_no_prompt_is_predicted() -> None:
    budget = StepBudget(100)
    observe_steps(budget, 100, 1.0)
    assert budget.take_prediction() == StepPrediction()
