"""Layout: arranges passages as the sequences of a batch, computing a prompt that several passages share only once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.command_io.finetuning.items import Passage

_LEAST_SHARED = 8  # tokens: a shorter prompt is not worth a sequence of its own


@dataclass(slots=True)
class Layout:
    """The sequences of a batch. prefixes: for each sequence, the index of the sequence that it continues, or None.
    rows: for each trained token, the row of the batch that predicts it."""

    sequences: list[Sequence[int]] = field(default_factory=list)
    prefixes: list[int | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    num_tokens: int = 0

    def add(self, ids: Sequence[int], prefix: int | None) -> tuple[int, int]:
        """Add a sequence, and return its index and its first row in the batch. prefix: index of the sequence that it
        continues, whose tokens `ids` leaves out; None if it continues no other."""
        self.sequences.append(ids)
        self.prefixes.append(prefix)
        self.num_tokens += len(ids)
        return len(self.sequences) - 1, self.num_tokens - len(ids)


def lay_out(passages: Sequence[Passage], *, shares: bool) -> Layout:
    """Lay out passages as sequences. shares: whether a common prompt becomes a sequence that passages continue."""
    layout = Layout()
    counts = Counter(prompt_of(passage) for passage in passages) if shares else Counter()
    known: dict[tuple[int, ...], tuple[int, int]] = {}
    for passage in passages:
        prompt = prompt_of(passage)
        if counts[prompt] < 2 or len(prompt) < _LEAST_SHARED:
            _, start = layout.add(passage.ids, None)
            layout.rows += (start + place - 1 for place in _trained(passage))
            continue
        if prompt not in known:
            known[prompt] = layout.add(prompt, None)
        prefix, prefix_start = known[prompt]
        _, start = layout.add(passage.ids[len(prompt) :], prefix)
        # The first learned token is predicted from the prompt's last row.
        layout.rows += (
            prefix_start + place - 1 if place == len(prompt) else start + place - len(prompt) - 1
            for place in _trained(passage)
        )
    return layout


def prompt_of(passage: Passage) -> tuple[int, ...]:
    """Return the passage's tokens before the first trained token."""
    return tuple(passage.ids[: passage.trained[0][0]]) if passage.trained else tuple(passage.ids)


def _trained(passage: Passage) -> list[int]:
    return [place for first, last in passage.trained for place in range(first, last)]
