"""walk against brute force over a toy model."""

import math
import random
from collections.abc import Sequence

import pytest

from server.decisions.labels import LabelTrie, Path, SamePath
from server.decisions.walk import MAX_ERROR, Lookup, walk

pytestmark = pytest.mark.fast

Labels = list[list[Path]]


class ToyModel:
    """A Scorer whose distributions depend on all tokens before, through a hash. sharpness: how unequal they are."""

    def __init__(self, seed: int, vocab_size: int, sharpness: float) -> None:
        self._seed, self._vocab_size, self._sharpness = seed, vocab_size, sharpness
        self.lookups: list[Lookup] = []
        self.num_rounds = 0

    def logprobs(self, question: int, path: Path) -> list[float]:
        draw = random.Random(f"{self._seed}/{question}/{path}")
        logits = [draw.gauss(0, self._sharpness) for _ in range(self._vocab_size)]
        total = math.log(math.fsum(map(math.exp, logits)))
        return [logit - total for logit in logits]

    def path_logprob(self, question: int, path: Path) -> float:
        return math.fsum(self.logprobs(question, path[:end])[token_id] for end, token_id in enumerate(path))

    async def score(self, lookups: Sequence[Lookup]) -> list[list[float]]:
        self.lookups += lookups
        self.num_rounds += 1
        rows = [self.logprobs(lookup.question, lookup.path) for lookup in lookups]
        return [[row[each] for each in lookup.next_ids] for row, lookup in zip(rows, lookups, strict=True)]


def _brute_force(model: ToyModel, question: int, labels: Labels) -> tuple[list[float], float]:
    """Probabilities and mass by following every path to the end: a text belongs to the longest path that begins it."""
    owners = {path: label for label, paths in enumerate(labels) for path in paths}
    masses = [0.0] * len(labels)
    for path, label in owners.items():
        longer = [other for other in owners if len(other) > len(path) and other[: len(path)] == path]
        nearest = [
            other for other in longer if not any(other != each and other[: len(each)] == each for each in longer)
        ]
        exclusive = math.exp(model.path_logprob(question, path))
        exclusive -= math.fsum(math.exp(model.path_logprob(question, other)) for other in nearest)
        masses[label] += exclusive
    total = math.fsum(masses)
    return [mass / total for mass in masses], total


def _random_labels(draw: random.Random, vocab_size: int) -> Labels:
    """Labels of one to twelve tokens, one to three spellings each; some begin others."""
    taken: set[Path] = set()
    labels: Labels = []
    for _ in range(draw.randint(2, 9)):
        paths: list[Path] = []
        for _ in range(draw.randint(1, 3)):
            begin = draw.choice([*sorted(taken), ()]) if draw.random() < 0.5 else ()
            path = (*begin, *(draw.randrange(vocab_size) for _ in range(draw.randint(1, 12 - min(11, len(begin))))))
            if path not in taken:
                taken.add(path)
                paths.append(path)
        labels.append(paths or [(*max(taken, key=len), 0)])
        taken.update(labels[-1])
    return labels


@pytest.mark.parametrize("seed", range(60))
async def test_the_walk_agrees_with_brute_force(seed: int) -> None:
    draw = random.Random(seed)
    vocab_size = draw.choice([3, 20])
    model = ToyModel(seed, vocab_size, sharpness=draw.choice([0.5, 2.0, 6.0]))
    questions = [_random_labels(draw, vocab_size) for _ in range(draw.randint(1, 4))]
    found = await walk([LabelTrie(labels) for labels in questions], model)
    for number, (labels, masses) in enumerate(zip(questions, found, strict=True)):
        probabilities, total = _brute_force(model, number, labels)
        assert masses.probabilities == pytest.approx(probabilities, abs=2 * MAX_ERROR)
        assert masses.mass == pytest.approx(total, rel=2 * MAX_ERROR)
        assert math.fsum(masses.probabilities) == pytest.approx(1)
    assert len(set(model.lookups)) == len(model.lookups)


async def _walked(labels: Labels, model: ToyModel) -> Sequence[float]:
    (masses,) = await walk([LabelTrie(labels)], model)
    return masses.probabilities


class Scripted(ToyModel):
    """A model whose rows are given by path; all other rows are even."""

    def __init__(self, rows: dict[Path, dict[int, float]]) -> None:
        super().__init__(0, 4, 0.0)
        self._rows = rows

    def logprobs(self, question: int, path: Path) -> list[float]:
        row = self._rows.get(path)
        if row is None:
            return super().logprobs(question, path)
        return [math.log(row[each]) if row.get(each) else -math.inf for each in range(4)]


async def test_spellings_of_a_label_add_up() -> None:
    model = Scripted({(): {0: 0.1, 1: 0.2, 2: 0.1}})
    assert await _walked([[(0,), (1,)], [(2,)]], model) == pytest.approx([0.75, 0.25])


async def test_a_label_that_begins_another_has_the_rest_of_its_mass() -> None:
    model = Scripted({(): {0: 0.8, 1: 0.2}, (0,): {2: 0.25, 3: 0.75}})
    assert await _walked([[(0,)], [(0, 2)], [(1,)]], model) == pytest.approx([0.6, 0.2, 0.2])


async def test_a_longer_spelling_of_the_same_label_counts_once() -> None:
    model = Scripted({(): {0: 0.8, 1: 0.2}, (0,): {2: 0.25, 3: 0.75}})
    assert await _walked([[(0,), (0, 2)], [(1,)]], model) == pytest.approx([0.8, 0.2])


async def test_a_path_that_cannot_matter_is_left() -> None:
    model = Scripted({(): {0: 0.5, 1: 1e-7, 2: 0.5}})
    assert await _walked([[(0,)], [(1, 0, 0)], [(2,)]], model) == pytest.approx([0.5, 0, 0.5], abs=MAX_ERROR)
    assert [lookup.path for lookup in model.lookups] == [()]


async def test_many_unlikely_paths_are_followed_until_the_rest_cannot_matter() -> None:
    model = Scripted({(): {0: 0.5, 1: 8e-7, 2: 8e-7, 3: 1 - 0.5 - 16e-7}})
    await _walked([[(0,)], [(1, 0)], [(2, 0)], [(3,)]], model)
    assert len(model.lookups) == 2  # the row of first tokens, and one of the two


async def test_all_questions_advance_in_common_rounds() -> None:
    model = ToyModel(1, 5, 0.5)
    await walk([LabelTrie([[(0, 1)], [(2,)]]), LabelTrie([[(1,)], [(3, 3)]]), LabelTrie([[(0,)], [(1,)]])], model)
    assert model.num_rounds == 2
    assert len(model.lookups) == 5


async def test_labels_far_below_the_smallest_number_are_compared() -> None:
    row = {0: 1e-200, 1: 3e-200, 2: 1.0}
    model = Scripted({(): row, (0,): row, (1,): row})
    (masses,) = await walk([LabelTrie([[(0, 0)], [(1, 0)]])], model)
    assert masses.probabilities == pytest.approx([0.25, 0.75])
    assert masses.mass == 0


async def test_impossible_labels_have_no_mass() -> None:
    (masses,) = await walk([LabelTrie([[(0,)], [(1, 2)]])], Scripted({(): {3: 1.0}}))
    assert (masses.probabilities, masses.mass) == ([0.0, 0.0], 0.0)


def test_two_labels_with_one_path_are_refused() -> None:
    with pytest.raises(SamePath):
        LabelTrie([[(0, 1)], [(2,), (0, 1)]])
