"""The training schedule: which examples and replayed answers each step takes, and its learning rate.

The schedule is a pure function of the seed and the step, so that a job can continue at any step.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from engine.command_io.finetuning.job import Order, Pacing, Schedule
from models.progress import ProgressReport

_FIRST_SHARE = 0.3  # of the ordered examples, with which a paced curriculum begins


class BatchOrder:
    """The examples of each step, shuffled epoch by epoch or ordered by a curriculum."""

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        num_steps: int,
        seed: int,
        ranked: Sequence[int] | None = None,
        pacing: Pacing = Pacing.NONE,
    ) -> None:
        """ranked: the indices of all items in the curriculum's order; None shuffles them in each epoch."""
        self._num_items = num_items
        self._batch_size = batch_size
        self._num_steps = num_steps
        self._seed = seed
        self._ranked = ranked
        self._pacing = pacing
        self._shuffled = _Shuffled(num_items)
        self.steps_per_epoch = -(-num_items // batch_size)

    def batch(self, step: int) -> list[int]:
        """Return the item indices of a step, counted from 0. Without pacing, an epoch's last step may be smaller."""
        if self._ranked is not None and self._pacing is not Pacing.NONE:
            count = self._num_known(step)
            ranks = random.Random(f"{self._seed} {step}").sample(range(count), min(self._batch_size, count))
            return [self._ranked[rank] for rank in ranks]
        epoch, place = divmod(step, self.steps_per_epoch)
        return list(self._epoch(epoch)[place * self._batch_size : (place + 1) * self._batch_size])

    def sum_of(self, sizes: Sequence[int], num_steps: int) -> int:
        """Return the total size of the items in the first `num_steps` steps. sizes: one for each item."""
        num_whole = 0 if self._pacing is not Pacing.NONE else num_steps // self.steps_per_epoch
        rest = range(num_whole * self.steps_per_epoch, num_steps)
        return num_whole * sum(sizes) + sum(sizes[index] for step in rest for index in self.batch(step))

    def _epoch(self, epoch: int) -> Sequence[int]:
        return self._shuffled.by(f"{self._seed} {epoch}") if self._ranked is None else self._ranked

    def _num_known(self, step: int) -> int:
        """Return how many of the first items of the curriculum a step draws from; all from halfway through training."""
        progress = min(1.0, 2 * step / max(1, self._num_steps))
        if self._pacing is Pacing.SQRT:
            share = (progress * (1 - _FIRST_SHARE**2) + _FIRST_SHARE**2) ** 0.5
        else:
            share = progress * (1 - _FIRST_SHARE) + _FIRST_SHARE
        return max(1, min(self._num_items, round(share * self._num_items)))


class ReplayOrder:
    """The replayed answers of each step: passes over all answers, reshuffled for each pass."""

    def __init__(self, num_answers: int, per_step: float, seed: int) -> None:
        """per_step: average number of answers per step; a fraction makes some steps take one more."""
        self._num_answers = num_answers
        self._per_step = per_step
        self._seed = seed
        self._shuffled = _Shuffled(num_answers)

    def batch(self, step: int) -> list[int]:
        """Return the indices of the answers replayed in a step, counted from 0."""
        if not self._num_answers:
            return []
        first, last = math.floor(step * self._per_step), math.floor((step + 1) * self._per_step)
        return [self._answer(place) for place in range(first, last)]

    def _answer(self, place: int) -> int:
        turn, place = divmod(place, self._num_answers)
        return self._shuffled.by(f"{self._seed} replay {turn}")[place]


class _Shuffled:
    """A shuffled range that caches its last permutation: consecutive steps need the same permutation, and shuffling is
    slow."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seed: str | None = None
        self._order: list[int] = []

    def by(self, seed: str) -> Sequence[int]:
        """Return range(count) shuffled by the seed."""
        if seed != self._seed:
            order = list(range(self._count))
            random.Random(seed).shuffle(order)
            self._seed, self._order = seed, order
        return self._order


class Sized(Protocol):
    @property
    def num_tokens(self) -> int: ...


Item = TypeVar("Item", bound=Sized)


def ranked(
    order: Order, items: Sequence[Item], difficulty: Callable[[Item], float], progress: ProgressReport
) -> list[int] | None:
    """Return the item indices in the curriculum's order; None for random order. difficulty: rates an item."""
    match order:
        case Order.NONE:
            return None
        case Order.FILE:
            return list(range(len(items)))
        case Order.LENGTH:
            return sorted(range(len(items)), key=lambda index: items[index].num_tokens)
        case Order.DIFFICULTY:
            rated = []
            for number, item in enumerate(items):
                progress("rate difficulty", number, len(items), "examples")
                rated.append(difficulty(item))
            progress("rate difficulty", len(items), len(items), "examples")
            return sorted(range(len(items)), key=lambda index: rated[index])


def learning_rate(highest: float, step: int, num_steps: int, warmup_ratio: float, schedule: Schedule) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up to `highest`, then the schedule."""
    num_warmup = math.ceil(warmup_ratio * num_steps)
    if step < num_warmup:
        return highest * (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)  # below 1
    match schedule:
        case Schedule.LINEAR:
            return highest * (1 - progress)
        case Schedule.COSINE:
            return highest * (1 + math.cos(math.pi * progress)) / 2
        case Schedule.CONSTANT:
            return highest
