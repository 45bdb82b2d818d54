"""Beginnings that the questions of a request have in common, and the order in which to compute the questions for it."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

MIN_GAIN = 4  # tokens of a beginning for which a question waits a step


class Neighbors(NamedTuple):
    """Two prompts, by number, and how many first tokens they have in common."""

    length: int
    first: int
    second: int


def neighbors(prompts: Sequence[list[int]]) -> list[Neighbors]:
    """Return the pairs of prompts that are neighbors in lexical order. One of a prompt's neighbors has as much in
    common with it as any other prompt has."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    return [Neighbors(_num_common(prompts[a], prompts[b]), a, b) for a, b in itertools.pairwise(order)]


def shared_lengths(pairs: list[Neighbors]) -> list[int]:
    """Return, for each prompt, the length of the longest prefix that it shares with another one."""
    shared = [0] * (len(pairs) + 1)
    for length, first, second in pairs:
        shared[first] = max(shared[first], length)
        shared[second] = max(shared[second], length)
    return shared


def followers(pairs: list[Neighbors]) -> list[list[int]]:
    """Return, for each prompt, those to compute after it, in order, because they begin like it.

    Each but the first follows an earlier one; no other earlier one has MIN_GAIN more first tokens in common with it.
    """
    leaders, lengths = _trees(pairs)
    found: list[list[int]] = [[] for _ in leaders]
    for number in range(1, len(leaders)):
        while (leader := leaders[number]) and lengths[number] - lengths[leader] < MIN_GAIN:
            leaders[number], lengths[number] = leaders[leader], lengths[leader]
        found[leaders[number]].append(number)
    return found


def _trees(pairs: list[Neighbors]) -> tuple[list[int], list[int]]:
    """Return, for each prompt but the first, an earlier one that has as much in common with it as any earlier one, and
    how many tokens that is."""
    num_prompts = len(pairs) + 1
    roots = list(range(num_prompts))  # toward the earliest prompt of those that are joined so far
    leaders, lengths = [0] * num_prompts, [0] * num_prompts

    def root(number: int) -> int:
        while roots[number] != number:
            roots[number] = number = roots[roots[number]]
        return number

    for length, first, second in sorted(pairs, reverse=True):
        leader, number = sorted((root(first), root(second)))
        roots[number] = leaders[number] = leader
        lengths[number] = length
    return leaders, lengths


def _num_common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
