"""Beginnings that questions have in common, against all pairs of them."""

import itertools
import random

import pytest

from engine.scoring.beginnings import MIN_GAIN, followers, neighbors, shared_lengths

pytestmark = pytest.mark.fast


def _draw_prompts(draw: random.Random) -> list[list[int]]:
    """Prompts of two tokens' kinds, many of which begin alike."""
    prompts = [[draw.randrange(2) for _ in range(draw.randrange(1, 14))]]
    for _ in range(draw.randrange(40)):
        begin = draw.choice(prompts)
        prompts.append([*begin[: draw.randrange(len(begin) + 1)], *draw.choices((0, 1), k=draw.randrange(1, 14))])
    return prompts


def _num_common(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


@pytest.mark.parametrize("seed", range(40))
def test_each_prompt_follows_an_earlier_one_that_begins_like_it(seed: int) -> None:
    prompts = _draw_prompts(random.Random(seed))
    found = followers(neighbors(prompts))
    leaders = {number: leader for leader, numbers in enumerate(found) for number in numbers}
    assert sorted(each for numbers in found for each in numbers) == list(range(1, len(prompts)))
    for number, leader in leaders.items():
        assert leader < number
        most = max(_num_common(prompts[number], each) for each in prompts[:number])
        assert most - _num_common(prompts[number], prompts[leader]) < MIN_GAIN


@pytest.mark.parametrize("seed", range(20))
def test_shared_lengths_are_those_of_all_pairs(seed: int) -> None:
    prompts = _draw_prompts(random.Random(seed))
    most = [
        max((_num_common(prompt, each) for each in prompts[:number] + prompts[number + 1 :]), default=0)
        for number, prompt in enumerate(prompts)
    ]
    assert shared_lengths(neighbors(prompts)) == most


def test_prompts_that_gain_little_follow_the_first() -> None:
    prompts = [[1, 2], [3, 4, 5, 6], [3, 4, 5, 7], [3, 4, 5, 8, 9]]
    assert followers(neighbors(prompts)) == [[1, 2, 3], [], [], []]


def test_equally_good_leaders_make_no_chain() -> None:
    prompts = [[1, 2], *([7, 7, 7, 7, number] for number in range(20))]
    assert followers(neighbors(prompts))[:2] == [[1], list(range(2, 21))]
