"""ranked: the items in the order that a curriculum asks for."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from engine.command_io.finetuning.job import Order
from models.progress import ProgressReport


class Sized(Protocol):
    @property
    def num_tokens(self) -> int: ...


Item = TypeVar("Item", bound=Sized)


def ranked(
    order: Order, items: Sequence[Item], difficulty: Callable[[Item], float], progress: ProgressReport
) -> list[int] | None:
    """None for a random order. difficulty: of an item for the decoder as it begins."""
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
