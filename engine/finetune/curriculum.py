"""ranked: the items in the order that a curriculum asks for."""

from collections.abc import Sequence

from engine.finetune.objective import TokenObjective, evaluate
from engine.jobs.finetune.items import Passage, TrainingItem
from engine.jobs.finetune.job import Order
from models.decoder import Decoder
from models.progress import ProgressReport


def ranked(order: Order, items: Sequence[TrainingItem], decoder: Decoder, progress: ProgressReport) -> list[int] | None:
    """None for a random order. Difficulty is the loss that the decoder has now on what is to be learned, which takes a
    third of an epoch."""
    match order:
        case Order.NONE:
            return None
        case Order.FILE:
            return list(range(len(items)))
        case Order.LENGTH:
            return sorted(range(len(items)), key=lambda index: items[index].num_tokens)
        case Order.DIFFICULTY:
            objective = TokenObjective(decoder)
            losses = []
            for number, item in enumerate(items):
                progress("rate difficulty", number, len(items), "examples")
                losses.append(evaluate(objective, [_first(item.passages)], decoder).loss)
            progress("rate difficulty", len(items), len(items), "examples")
            return sorted(range(len(items)), key=lambda index: losses[index])


def _first(passages: Sequence[Passage]) -> TrainingItem:
    return TrainingItem([passages[0]])
