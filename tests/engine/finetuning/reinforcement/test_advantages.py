"""Advantages: by the formulas of the papers, and none where there is nothing to tell apart."""

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.command_io.finetuning.job import ScaleRewards
from engine.finetuning.reinforcement.advantages import advantages, has_signal, spread

pytestmark = pytest.mark.fast

GROUPS = [[0.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [0.0, 10.0, 20.0, 30.0]]
REWARDS = st.lists(
    st.lists(st.none() | st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=8), min_size=1, max_size=5
)


def test_a_group_scales_its_own_rewards() -> None:
    found = advantages(GROUPS, ScaleRewards.GROUP)

    for group, of_group in zip(GROUPS, found, strict=True):
        mean, deviation = statistics.fmean(group), statistics.pstdev(group)
        assert of_group == pytest.approx([(reward - mean) / (deviation + 1e-4) for reward in group])
    assert found[1] == [0.0] * 4


def test_a_step_scales_all_groups_alike() -> None:
    found = advantages(GROUPS, ScaleRewards.BATCH)

    centered = [reward - statistics.fmean(group) for group in GROUPS for reward in group]
    deviation = statistics.pstdev(centered)
    assert [value for group in found for value in group] == pytest.approx([c / (deviation + 1e-4) for c in centered])


def test_rewards_can_be_left_as_large_as_they_are() -> None:
    assert advantages([[0.0, 3.0]], ScaleRewards.NONE) == [[-1.5, 1.5]]


@pytest.mark.parametrize("scale", ScaleRewards)
def test_an_answer_that_could_not_be_graded_counts_for_nothing(scale: ScaleRewards) -> None:
    found = advantages([[0.0, None, 1.0], [None, None, None]], scale)

    assert found[0][1] == 0.0
    assert found[0][0] == -found[0][2] != 0.0
    assert found[1] == [0.0, 0.0, 0.0]


def test_a_group_has_a_signal_if_two_of_its_rewards_differ() -> None:
    assert has_signal([0.0, 0.0, 0.1])
    assert not has_signal([0.3, 0.3, None])
    assert not has_signal([None])
    assert spread([1.0, 3.0, None]) == 1.0
    assert spread([None]) == 0.0


@given(REWARDS, st.sampled_from(list(ScaleRewards)))
def test_advantages_are_finite_and_add_up_to_zero_in_each_group(
    groups: list[list[float | None]], scale: ScaleRewards
) -> None:
    found = advantages(groups, scale)

    assert [len(group) for group in found] == [len(group) for group in groups]
    for group in found:
        assert all(map(math.isfinite, group))
        assert abs(sum(group)) <= 1e-6 * (1 + max(map(abs, group)))


@given(REWARDS, st.floats(0.1, 50.0))
def test_the_size_of_a_graders_numbers_makes_no_difference(groups: list[list[float | None]], factor: float) -> None:
    larger = [[None if reward is None else factor * reward for reward in group] for group in groups]
    assume(max(map(spread, groups)) > 0.1)  # where the least scale is small beside it

    for one, other in zip(*(advantages(each, ScaleRewards.BATCH) for each in (groups, larger)), strict=True):
        assert one == pytest.approx(other, rel=0.05, abs=1e-6)
    for group, scaled in zip(groups, larger, strict=True):
        if spread(group) > 0.1:
            (one,), (other,) = (advantages([each], ScaleRewards.GROUP) for each in (group, scaled))
            assert one == pytest.approx(other, rel=0.05, abs=1e-6)
