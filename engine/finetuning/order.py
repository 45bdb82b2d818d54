"""The order of a training: which examples and replayed answers each step takes, and its learning rate.

All are functions of the seed and the step, so that a job can continue at any step.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from engine.command_io.finetuning.job import Order, Pacing, Schedule
from models.progress import ProgressReport

_FIRST_SHARE = 0.3  # of the ordered examples, with which a paced curriculum begins


class BatchOrder:
    """The examples of each step, epoch by epoch, or by a curriculum."""

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        num_steps: int,
        seed: int,
        ranked: Sequence[int] | None = None,
        pacing: Pacing = Pacing.NONE,
    ) -> None:
        """ranked: all items in a curriculum's order; None shuffles them in each epoch."""
        self._num_items = num_items
        self._batch_size = batch_size
        self._num_steps = num_steps
        self._seed = seed
        self._ranked = ranked
        self._pacing = pacing
        self._shuffled = _Shuffled(num_items)
        self.steps_per_epoch = -(-num_items // batch_size)

    def batch(self, step: int) -> list[int]:
        """Return the items of a step, counted from 0. Without pacing, the last step of an epoch may have fewer."""
        if self._ranked is not None and self._pacing is not Pacing.NONE:
            count = self._num_known(step)
            ranks = random.Random(f"{self._seed} {step}").sample(range(count), min(self._batch_size, count))
            return [self._ranked[rank] for rank in ranks]
        epoch, place = divmod(step, self.steps_per_epoch)
        return list(self._epoch(epoch)[place * self._batch_size : (place + 1) * self._batch_size])

    def sum_of(self, sizes: Sequence[int], num_steps: int) -> int:
        """Return the sum of the sizes of the items that the first `num_steps` take. sizes: of all items."""
        num_whole = 0 if self._pacing is not Pacing.NONE else num_steps // self.steps_per_epoch
        rest = range(num_whole * self.steps_per_epoch, num_steps)
        return num_whole * sum(sizes) + sum(sizes[index] for step in rest for index in self.batch(step))

    def _epoch(self, epoch: int) -> Sequence[int]:
        return self._shuffled.by(f"{self._seed} {epoch}") if self._ranked is None else self._ranked

    def _num_known(self, step: int) -> int:
        """Return the number of items that a step draws from: all from the middle of the training on."""
        progress = min(1.0, 2 * step / max(1, self._num_steps))
        if self._pacing is Pacing.SQRT:
            share = (progress * (1 - _FIRST_SHARE**2) + _FIRST_SHARE**2) ** 0.5
        else:
            share = progress * (1 - _FIRST_SHARE) + _FIRST_SHARE
        return max(1, min(self._num_items, round(share * self._num_items)))


class ReplayOrder:
    """The replayed answers of each step: all once in random order, then all again in another order."""

    def __init__(self, num_answers: int, per_step: float, seed: int) -> None:
        """per_step: on average; some steps take one more than others."""
        self._num_answers = num_answers
        self._per_step = per_step
        self._seed = seed
        self._shuffled = _Shuffled(num_answers)

    def batch(self, step: int) -> list[int]:
        """Return the answers of a step, counted from 0."""
        if not self._num_answers:
            return []
        first, last = math.floor(step * self._per_step), math.floor((step + 1) * self._per_step)
        return [self._answer(place) for place in range(first, last)]

    def _answer(self, place: int) -> int:
        turn, place = divmod(place, self._num_answers)
        return self._shuffled.by(f"{self._seed} replay {turn}")[place]


class _Shuffled:
    """A shuffled range that keeps its last order: many steps ask for the same one, and shuffling takes long."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seed: str | None = None
        self._order: list[int] = []

    def by(self, seed: str) -> Sequence[int]:
        """Return all numbers below the count, shuffled by the seed."""
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
    """Return the items in a curriculum's order; None for a random order. difficulty: of an item before training."""
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
    """Return the learning rate of a step, counted from 0: it rises to the highest in the warm-up, then falls."""
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
