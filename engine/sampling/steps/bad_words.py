"""BadWords: tokens that would complete a sequence that the output must not contain.

A word is a sequence of tokens. Its last token is banned wherever the output ends with the tokens before it; a word of
one token is banned everywhere. The end of the prompt does not count: a word is made of generated tokens.
"""

from collections import abc

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow

Words = tuple[tuple[int, ...], ...]


class _WordIndex:
    """Words by the token before their last one, so that a row looks only at words which it could complete."""

    def __init__(self, words: Words) -> None:
        self._always = sorted({word[0] for word in words if len(word) == 1})
        self._after: dict[int, list[tuple[int, ...]]] = {}
        for word in words:
            if len(word) > 1:
                self._after.setdefault(word[-2], []).append(word)
        self.longest = max(map(len, words))

    def completions(self, output: abc.Sequence[int]) -> list[int]:
        """Return the tokens that complete a word after this output; its last `longest` - 1 tokens are enough."""
        candidates = self._after.get(output[-1], []) if output else []
        return self._always + [
            word[-1]
            for word in candidates
            if len(word) - 1 <= len(output) and tuple(output[1 - len(word) :]) == word[:-1]
        ]


class BadWords:
    """Holds an index of each sequence's words until it is released."""

    def __init__(self) -> None:
        self._indices: dict[str, _WordIndex] = {}

    def is_used(self, sampling: SamplingParams) -> bool:
        return bool(sampling.bad_words)

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        banned = self.banned_ids(row)
        if banned:
            logits[banned] = -torch.inf
        return bool(banned)

    def release(self, sequence_id: str) -> None:
        self._indices.pop(sequence_id, None)

    def banned_ids(self, row: LogitsRow) -> list[int]:
        """Return the ids that the row must not have. Its request has `bad_words`."""
        index = self._indices.get(row.sequence_id)
        if index is None:
            index = self._indices[row.sequence_id] = _WordIndex(row.sampling.bad_words)
        first = max(row.num_prompt, row.num_known - index.longest)
        return index.completions([*row.known_from(first), *row.drafted])
