"""Which examples a step takes, and its learning rate: functions of the step alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.job import Pacing, Schedule
from engine.finetuning import order as order_module
from engine.finetuning.order import BatchOrder, ReplayOrder, learning_rate

pytestmark = pytest.mark.fast


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_each_epoch_takes_every_item_once(num_items: int, batch_size: int, seed: int) -> None:
    order = BatchOrder(num_items, batch_size, 99, seed)
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        taken = [item for step in steps for item in order.batch(step)]
        assert sorted(taken) == list(range(num_items))


def test_epochs_and_seeds_differ_and_a_step_is_always_the_same() -> None:
    order = BatchOrder(32, 32, 99, seed=1)
    assert order.batch(0) != order.batch(1)
    assert order.batch(0) == BatchOrder(32, 32, 99, seed=1).batch(0)
    assert order.batch(0) != BatchOrder(32, 32, 99, seed=2).batch(0)


def test_an_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    class Counted(random.Random):
        def __init__(self, seed: str) -> None:
            seeds.append(seed)
            super().__init__(seed)

    monkeypatch.setattr(order_module.random, "Random", Counted)
    order, replay = BatchOrder(40, 4, 30, seed=1), ReplayOrder(20, 4.0, seed=1)
    for step in range(30):
        order.batch(step)
        replay.batch(step)
    assert order.sum_of([1] * 40, 30) == 120
    assert seeds == [
        "1 0",
        "1 replay 0",
        "1 replay 1",
        "1 1",
        "1 replay 2",
        "1 replay 3",
        "1 2",
        "1 replay 4",
        "1 replay 5",
    ]


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.integers(1, 9),
    st.integers(0, 30),
    st.sampled_from(Pacing),
    st.booleans(),
)
def test_sizes_count_as_often_as_their_items_are_taken(
    sizes: list[int], batch_size: int, num_steps: int, pacing: Pacing, is_ranked: bool
) -> None:
    ranked = list(reversed(range(len(sizes)))) if is_ranked or pacing is not Pacing.NONE else None
    order = BatchOrder(len(sizes), batch_size, 30, 7, ranked, pacing)
    taken = [index for step in range(num_steps) for index in order.batch(step)]
    assert order.sum_of(sizes, num_steps) == sum(sizes[index] for index in taken)


def test_orders_are_those_of_earlier_versions() -> None:
    """A job that was begun before an update goes on with the examples that it would have taken."""
    assert BatchOrder(9, 4, 9, 3).batch(1) == [4, 2, 8, 6]
    assert BatchOrder(9, 4, 9, 3, list(range(9)), Pacing.SQRT).batch(4) == [0, 4, 6, 5]
    assert ReplayOrder(5, 2.5, 3).batch(3) == [4, 2, 3]


def test_a_ranked_order_is_kept() -> None:
    ranked = [3, 1, 0, 2]
    order = BatchOrder(4, 2, 4, 0, ranked)
    assert [order.batch(step) for step in range(4)] == [[3, 1], [0, 2], [3, 1], [0, 2]]


@pytest.mark.parametrize("pacing", [Pacing.LINEAR, Pacing.SQRT])
def test_a_paced_order_draws_from_the_easy_ones_first_and_from_all_after_half(pacing: Pacing) -> None:
    order = BatchOrder(100, 8, 200, 0, list(range(100)), pacing)
    first = {item for step in range(3) for item in order.batch(step)}
    late = {item for step in range(100, 200) for item in order.batch(step)}
    assert max(first) < 40
    assert late == set(range(100))
    assert all(len(set(order.batch(step))) == 8 for step in range(200))


@given(st.integers(1, 30), st.floats(0.1, 9.0), st.integers(0, 99))
def test_every_answer_is_replayed_before_one_comes_again(num_answers: int, per_step: float, seed: int) -> None:
    order = ReplayOrder(num_answers, per_step, seed)
    steps = range(1 + int(3 * num_answers / per_step))
    taken = [answer for step in steps for answer in order.batch(step)]
    assert len(taken) == int(len(steps) * per_step)
    for first in range(0, len(taken), num_answers):
        turn = taken[first : first + num_answers]
        assert len(set(turn)) == len(turn)


def test_replay_differs_by_turn_and_seed_and_is_nothing_without_answers() -> None:
    turns = [ReplayOrder(32, 32.0, seed).batch(step) for seed in (1, 2) for step in (0, 1)]
    assert len({tuple(turn) for turn in turns}) == 4
    assert ReplayOrder(32, 32.0, 1).batch(0) == turns[0]
    assert ReplayOrder(0, 2.0, 1).batch(0) == []


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = {kind: [learning_rate(1.0, step, 20, 0.2, kind) for step in range(20)] for kind in Schedule}
    for each in rates.values():
        assert each[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[Schedule.LINEAR][4] == 1.0
    assert rates[Schedule.LINEAR][12] == pytest.approx(0.5)
    assert rates[Schedule.COSINE][12] == pytest.approx(0.5)
    assert 0 < rates[Schedule.COSINE][19] < rates[Schedule.LINEAR][19]
    assert rates[Schedule.CONSTANT][19] == 1.0
