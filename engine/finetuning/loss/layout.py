"""Layout: passages as the sequences of a batch, in which prompts that several of them have stand once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.command_io.finetuning.items import Passage

_LEAST_SHARED = 8  # tokens: for fewer, what is saved is not worth a sequence


@dataclass(slots=True)
class Layout:
    """prefixes: of each sequence, the sequence that it goes on from. rows: from which each trained token is predicted,
    of all sequences together."""

    sequences: list[Sequence[int]] = field(default_factory=list)
    prefixes: list[int | None] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    num_tokens: int = 0

    def add(self, ids: Sequence[int], prefix: int | None) -> tuple[int, int]:
        """Its number, and its first row."""
        self.sequences.append(ids)
        self.prefixes.append(prefix)
        self.num_tokens += len(ids)
        return len(self.sequences) - 1, self.num_tokens - len(ids)


def lay_out(passages: Sequence[Passage], *, shares: bool) -> Layout:
    """shares: whether passages can go on from a prompt that is not theirs alone."""
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
    """What is before the first token that is learned."""
    return tuple(passage.ids[: passage.trained[0][0]]) if passage.trained else tuple(passage.ids)


def _trained(passage: Passage) -> list[int]:
    return [place for first, last in passage.trained for place in range(first, last)]
