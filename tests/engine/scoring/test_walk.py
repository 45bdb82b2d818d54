"""LabelWalk against brute force over a toy model."""

import math
import random
from collections.abc import Sequence

import pytest

from engine.protocol import LabelMasses
from engine.protocol.scoring import Path
from engine.scoring.labels import LabelTrie
from engine.scoring.walk import MAX_ERROR, LabelWalk

pytestmark = pytest.mark.fast

Labels = list[list[Path]]


class ToyModel:
    """A model whose distributions depend on all tokens before, through a hash. sharpness: how unequal they are."""

    def __init__(self, seed: int, vocab_size: int, sharpness: float) -> None:
        self._seed, self._vocab_size, self._sharpness = seed, vocab_size, sharpness
        self.lookups: list[Path] = []

    def logprobs(self, path: Path) -> list[float]:
        draw = random.Random(f"{self._seed}/{path}")
        logits = [draw.gauss(0, self._sharpness) for _ in range(self._vocab_size)]
        total = math.log(math.fsum(map(math.exp, logits)))
        return [logit - total for logit in logits]

    def path_logprob(self, path: Path) -> float:
        return math.fsum(self.logprobs(path[:end])[token_id] for end, token_id in enumerate(path))

    def walk(self, labels: Labels) -> LabelMasses:
        walk = LabelWalk(LabelTrie(labels))
        while nodes := walk.due():
            for node in nodes:
                self.lookups.append(node.path)
                row = self.logprobs(node.path)
                walk.expand(node, [row[each] for each in node.children])
        return walk.masses()


def _brute_force(model: ToyModel, labels: Labels) -> tuple[list[float], float]:
    """Probabilities and mass by following every path to the end: a text belongs to the longest path that begins it."""
    owners = {path: label for label, paths in enumerate(labels) for path in paths}
    masses = [0.0] * len(labels)
    for path, label in owners.items():
        longer = [other for other in owners if len(other) > len(path) and other[: len(path)] == path]
        nearest = [
            other for other in longer if not any(other != each and other[: len(each)] == each for each in longer)
        ]
        exclusive = math.exp(model.path_logprob(path))
        exclusive -= math.fsum(math.exp(model.path_logprob(other)) for other in nearest)
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


@pytest.mark.parametrize("seed", range(100))
def test_the_walk_agrees_with_brute_force(seed: int) -> None:
    draw = random.Random(seed)
    vocab_size = draw.choice([3, 20])
    model = ToyModel(seed, vocab_size, sharpness=draw.choice([0.5, 2.0, 6.0]))
    labels = _random_labels(draw, vocab_size)
    masses = model.walk(labels)
    probabilities, total = _brute_force(model, labels)
    assert masses.probabilities == pytest.approx(probabilities, abs=2 * MAX_ERROR)
    assert masses.mass == pytest.approx(total, rel=2 * MAX_ERROR)
    assert math.fsum(masses.probabilities) == pytest.approx(1)
    assert len(set(model.lookups)) == len(model.lookups)


def _walked(labels: Labels, model: ToyModel) -> Sequence[float]:
    return model.walk(labels).probabilities


class Scripted(ToyModel):
    """A model whose rows are given by path; all other rows are even."""

    def __init__(self, rows: dict[Path, dict[int, float]]) -> None:
        super().__init__(0, 4, 0.0)
        self._rows = rows

    def logprobs(self, path: Path) -> list[float]:
        row = self._rows.get(path)
        if row is None:
            return super().logprobs(path)
        return [math.log(row[each]) if row.get(each) else -math.inf for each in range(4)]


def test_spellings_of_a_label_add_up() -> None:
    model = Scripted({(): {0: 0.1, 1: 0.2, 2: 0.1}})
    assert _walked([[(0,), (1,)], [(2,)]], model) == pytest.approx([0.75, 0.25])


def test_a_label_that_begins_another_has_the_rest_of_its_mass() -> None:
    model = Scripted({(): {0: 0.8, 1: 0.2}, (0,): {2: 0.25, 3: 0.75}})
    assert _walked([[(0,)], [(0, 2)], [(1,)]], model) == pytest.approx([0.6, 0.2, 0.2])


def test_a_longer_spelling_of_the_same_label_counts_once() -> None:
    model = Scripted({(): {0: 0.8, 1: 0.2}, (0,): {2: 0.25, 3: 0.75}})
    assert _walked([[(0,), (0, 2)], [(1,)]], model) == pytest.approx([0.8, 0.2])


def test_a_path_that_cannot_matter_is_left() -> None:
    model = Scripted({(): {0: 0.5, 1: 1e-7, 2: 0.5}})
    assert _walked([[(0,)], [(1, 0, 0)], [(2,)]], model) == pytest.approx([0.5, 0, 0.5], abs=MAX_ERROR)
    assert model.lookups == [()]


def test_many_unlikely_paths_are_followed_until_the_rest_cannot_matter() -> None:
    model = Scripted({(): {0: 0.5, 1: 8e-7, 2: 8e-7, 3: 1 - 0.5 - 16e-7}})
    _walked([[(0,)], [(1, 0)], [(2, 0)], [(3,)]], model)
    assert len(model.lookups) == 2  # the row of first tokens, and one of the two


def test_labels_far_below_the_smallest_number_are_compared() -> None:
    row = {0: 1e-200, 1: 3e-200, 2: 1.0}
    model = Scripted({(): row, (0,): row, (1,): row})
    masses = model.walk([[(0, 0)], [(1, 0)]])
    assert masses.probabilities == pytest.approx([0.25, 0.75])
    assert masses.mass == 0


def test_impossible_labels_have_no_mass() -> None:
    masses = Scripted({(): {3: 1.0}}).walk([[(0,)], [(1, 2)]])
    assert (masses.probabilities, masses.mass) == ([0.0, 0.0], 0.0)
