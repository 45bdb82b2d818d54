"""How a step's tokens are divided: generation first, tenants by weight, and a long prompt leaves some to short ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import ServiceClass
from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.cost import PromptCost
from engine.scheduling.steps.split import StepSplit
from tests.helpers.engines import make_request

pytestmark = pytest.mark.fast


def prompt_of(
    number: int,
    length: int,
    account: TenantAccount,
    *,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
    num_output: int = 0,
    priority: int = 0,
) -> Sequence:
    """A sequence whose prompt is to be computed, or, with output, is computed."""
    request = make_request(str(number), [1] * length, service_class=service_class)
    sequence = Sequence(request=request, seed=0, tokens=[1] * (length + num_output), num_prompt=length, account=account)
    sequence.order = (sequence.service.rank, priority, 0.0, number, 0)
    sequence.num_computed = len(sequence.tokens) - 1 if num_output else 0
    return sequence


def split(sequences: list[Sequence], budget: int, threshold: int = 0) -> list[int]:
    tokens = StepSplit(sequences, budget, threshold=threshold).tokens()
    return [tokens[sequence] for sequence in sequences]


def of_one_tenant(lengths: list[int]) -> list[Sequence]:
    account = TenantAccount()
    return [prompt_of(number, length, account) for number, length in enumerate(lengths)]


def of_tenants(lengths: list[tuple[TenantAccount, int]]) -> list[Sequence]:
    return [prompt_of(number, length, account) for number, (account, length) in enumerate(lengths)]


def test_rows_of_labels_cost_their_context_and_logits() -> None:
    sequences = of_one_tenant([100] * 5)
    for sequence in sequences:
        sequence.num_computed = 99
    parts = StepSplit([], 10, threshold=0, cost=lambda position: PromptCost(1.0, position / 99, 0.5))
    for sequence in sequences:
        parts.add(parts.demand(sequence, 1))

    assert list(parts.tokens().values()) == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([30, 30, 30], [30, 30, 30]),
        ([80, 80, 80], [80, 20, 0]),  # those as long wait for their turn
        ([1000, 600, 501], [100, 0, 0]),
        ([1000, 30], [70, 30]),
        ([1000, 500], [51, 49]),
        ([1000, 30, 900, 10, 400], [51, 30, 0, 10, 9]),
        ([60, 1000, 10, 30], [60, 20, 10, 10]),
        ([1000, 400, 100], [51, 25, 24]),  # and these two in the same way
    ],
)
def test_a_prompt_leaves_up_to_half_of_what_it_cannot_finish_with_to_shorter_ones(
    lengths: list[int], expected: list[int]
) -> None:
    assert split(of_one_tenant(lengths), 100) == expected


def test_a_shorter_prompt_of_a_worse_priority_waits() -> None:
    account = TenantAccount()
    assert split([prompt_of(0, 1000, account), prompt_of(1, 10, account, priority=1)], 100) == [100, 0]


def test_generation_comes_before_prompts_and_the_first_in_the_order_gets_something() -> None:
    account = TenantAccount()
    long, *streams = [
        prompt_of(0, 1000, account),
        *(prompt_of(n, 5, TenantAccount(), num_output=3) for n in range(1, 5)),
    ]
    assert split([long, *streams], 10) == [6, 1, 1, 1, 1]
    assert split([long, *streams], 3) == [1, 1, 1, 0, 0]


def test_tenants_share_what_is_left_by_weight() -> None:
    a, b, c = TenantAccount("a", weight=3.0), TenantAccount("b"), TenantAccount("c")
    assert split(of_tenants([(a, 1000), (b, 1000)]), 100) == [76, 24]
    assert split(of_tenants([(a, 1000), (b, 1000), (c, 5)]), 105) == [76, 24, 5]
    assert split(of_tenants([(a, 10), (b, 1000), (c, 1000)]), 110) == [10, 50, 50]


def test_a_tenant_without_prompts_lately_comes_first_until_it_has_had_as_many() -> None:
    busy, other = TenantAccount("busy"), TenantAccount("other")
    busy.count_step(100)
    assert split(of_tenants([(busy, 1000), (other, 80)]), 60) == [1, 59]
    assert split(of_tenants([(busy, 1000), (other, 1000)]), 161) == [31, 130]
    other.count_step(130)
    assert split(of_tenants([(busy, 1000), (other, 1000)]), 60) == [46, 14]


def test_lately_is_some_ten_steps() -> None:
    account = TenantAccount()
    for _ in range(100):
        account.count_step(50)
    assert account.recent_prompt_tokens == pytest.approx(500, rel=0.01)


def test_one_of_many_long_prompts_takes_nothing_from_another_tenants_short_one() -> None:
    flooder, other = TenantAccount("flooder"), TenantAccount("other")
    assert split(of_tenants([*[(flooder, 5000)] * 8, (other, 40)]), 256) == [216, *[0] * 7, 40]


def test_time_is_divided_where_tokens_cost_more_the_farther_they_are() -> None:
    account = TenantAccount()
    far, near = prompt_of(0, 5000, account), prompt_of(1, 500, account)
    far.num_computed = 1000
    tokens = StepSplit([far, near], 100, threshold=0, cost=lambda position: PromptCost(1 + position / 250)).tokens()
    assert tokens == {far: 10, near: 50}  # five tokens' time each: half is left to the shorter one


def test_a_prompt_whose_tokens_cost_more_than_a_step_has_gets_on_all_the_same() -> None:
    """There are streams that came before it, and short prompts of its own tenant and of others."""
    a, b = TenantAccount("a"), TenantAccount("b")
    stream, far = prompt_of(0, 5, a, num_output=3), prompt_of(1, 5000, a)
    far.num_computed = 4000

    def cost(position: int) -> PromptCost:
        return PromptCost(1 + position / 400)

    for others in ([], [prompt_of(2, 100, a)], [prompt_of(2, 100, b)]):
        tokens = StepSplit([stream, far, *others], 9, threshold=0, cost=cost).tokens()
        assert tokens[far] == 1
    a.count_step(20)  # it was its turn
    tokens = StepSplit([stream, far, prompt_of(2, 100, b)], 9, threshold=0, cost=cost).tokens()
    assert list(tokens.values()) == [1, 0, 8]


def dear(position: int) -> PromptCost:
    return PromptCost(1 + position / 400)


def test_a_dear_prompt_that_came_first_takes_nothing_from_streams() -> None:
    account = TenantAccount()
    far = prompt_of(0, 5000, account)
    far.num_computed = 4000
    streams = [prompt_of(number, 5, TenantAccount(), num_output=3) for number in range(1, 5)]
    assert list(StepSplit([far, *streams], 12, threshold=0, cost=dear).tokens().values()) == [1, 1, 1, 1, 1]
    far.num_computed = 2800  # a token costs 8, which is all that is left
    assert list(StepSplit([far, *streams], 12, threshold=0, cost=dear).tokens().values()) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("is_of_same_tenant", [True, False])
def test_a_dear_prompt_leaves_half_a_step_to_short_ones(is_first: bool, is_of_same_tenant: bool) -> None:
    a, b = TenantAccount("a"), TenantAccount("b")
    stream, far = prompt_of(0, 5, b, num_output=3), prompt_of(1, 5000, a)
    far.num_computed = 4000
    short = prompt_of(2, 100, a if is_of_same_tenant else b)
    tokens = StepSplit([*([] if is_first else [stream]), far, short], 9, threshold=0, cost=dear).tokens()
    assert tokens[far] == 1
    assert tokens[short] >= 3


def test_a_short_prompt_that_is_dear_too_gets_on_beside_a_dear_one() -> None:
    account = TenantAccount()
    far, near_end, short = (prompt_of(number, 9000, account) for number in range(3))
    far.num_computed, near_end.num_computed, short.num_computed = 4000, 8000, 8800
    tokens = StepSplit([far, near_end, short], 9, threshold=0, cost=dear).tokens()
    assert tokens == {far: 1, near_end: 1, short: 0}


def test_what_is_before_several_far_prompts_is_read_for_few_of_them_in_a_step() -> None:
    """Eight tenants have one each: read for all, it would take longer than what a step computes of them."""
    prompts = [prompt_of(number, 9000, TenantAccount(str(number))) for number in range(8)]
    num_computed = dict.fromkeys(prompts, 0)
    for _ in range(200):
        for prompt in prompts:
            prompt.num_computed = 8000 + num_computed[prompt]
        step = StepSplit(prompts, 64, threshold=0, cost=lambda _: PromptCost(8.0, 20.0))
        tokens = step.tokens()
        assert sum(demand.price(tokens[demand.sequence]) for demand in step.demands) <= 64
        assert sum(tokens.values()) >= 2
        for demand in step.demands:
            num_computed[demand.sequence] += tokens[demand.sequence]
            demand.sequence.account.count_step(demand.price(tokens[demand.sequence]))
    first, *others = num_computed.values()
    assert first >= 200  # a token of each step in any case
    assert min(others) >= max(20, 0.8 * max(others))


def test_a_class_comes_before_those_of_higher_ranks() -> None:
    account = TenantAccount()
    urgent = prompt_of(0, 90, account, service_class=ServiceClass.URGENT)
    others = [prompt_of(1, 50, TenantAccount()), prompt_of(2, 5, account, service_class=ServiceClass.BACKGROUND)]
    assert split([urgent, *others], 100) == [90, 10, 0]


ACCOUNTS = [TenantAccount(str(weight), weight=weight) for weight in (1.0, 1.0, 2.0, 0.001, 1000.0)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(ACCOUNTS), st.integers(1, 3000), st.sampled_from([0, 0, 3]), st.sampled_from([1, 2])),
        min_size=1,
        max_size=12,
    ),
    budget=st.integers(1, 2000),
    threshold=st.sampled_from([0, 0, 1, 100]),
)
def test_nothing_is_left_that_anyone_could_use(
    rows: list[tuple[TenantAccount, int, int, int]], budget: int, threshold: int
) -> None:
    classes = {1: ServiceClass.INTERACTIVE, 2: ServiceClass.BACKGROUND}
    rows.sort(key=lambda row: row[3])
    sequences = [
        prompt_of(number, length, account, num_output=num_output, service_class=classes[rank])
        for number, (account, length, num_output, rank) in enumerate(rows)
    ]
    demands = StepSplit(sequences, budget, threshold=threshold).demands
    tokens = split(sequences, budget, threshold)
    assert all(0 <= num <= demand.num_tokens for num, demand in zip(tokens, demands, strict=True))
    assert sum(tokens) == min(budget, sum(demand.num_tokens for demand in demands))
    assert tokens[0] >= 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(ACCOUNTS), st.integers(2, 3000), st.integers(0, 20_000), st.sampled_from([0, 0, 3])),
        min_size=1,
        max_size=12,
    ),
    num_more=st.integers(8, 300),
    scale=st.sampled_from([100, 1000, 10_000]),
    num_read=st.sampled_from([0, 2]),
)
def test_whatever_tokens_cost_streams_and_the_next_prompt_get_on_and_steps_are_bounded(
    rows: list[tuple[TenantAccount, int, int, int]], num_more: int, scale: int, num_read: int
) -> None:
    """At most the budget, or two tokens that are dearer than it and what is left beside the first."""

    def cost(position: int) -> PromptCost:
        return PromptCost(1 + position / scale, num_read * position / scale)

    sequences = []
    for number, (account, length, num_before, num_output) in enumerate(rows):
        sequences.append(prompt_of(number, num_before + length, account, num_output=num_output))
        sequences[-1].num_computed = max(sequences[-1].num_computed, num_before)
    streams = [each for each in sequences if each.num_output]
    prompts = [each for each in sequences if not each.num_output]
    budget = len(streams) + num_more
    step = StepSplit(sequences, budget, threshold=0, cost=cost)
    tokens, demands = step.tokens(), {demand.sequence: demand for demand in step.demands}
    assert all(tokens[each] == 1 for each in streams)
    assert tokens[sequences[0]] >= 1
    assert not prompts or any(tokens[each] for each in prompts)
    assert sum(tokens.values()) <= budget
    in_prompts = sum(demands[each].price(tokens[each]) for each in prompts)
    costliest = max((demands[each].price(1) for each in prompts), default=0.0)
    assert in_prompts <= max(num_more + 1e-3, 2 * costliest + num_more)
