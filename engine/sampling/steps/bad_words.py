"""BadWords: bans tokens that would complete a token sequence that the output must not contain.

A bad word is a sequence of tokens. Its last token is banned wherever the output ends with the tokens before it; a word
of one token is always banned. Only generated tokens count, not the end of the prompt.
"""

from collections import abc

import torch

from engine.sampling.rows import LogitsRow


class BadWords:
    """Bans completions of bad words, indexed by the next-to-last token so that a row checks few words."""

    def __init__(self, words: abc.Sequence[tuple[int, ...]]) -> None:
        self._always = sorted({word[0] for word in words if len(word) == 1})
        self._after: dict[int, list[tuple[int, ...]]] = {}
        for word in words:
            if len(word) > 1:
                self._after.setdefault(word[-2], []).append(word)
        self._longest = max(map(len, words))

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        banned = self.banned_ids(row)
        if banned:
            logits[banned] = -torch.inf
        return bool(banned)

    def banned_ids(self, row: LogitsRow) -> list[int]:
        """Return the token ids that would complete a bad word in this row."""
        first = max(row.num_prompt, row.num_known - self._longest)
        output = [*row.known_from(first), *row.drafted]
        candidates = self._after.get(output[-1], []) if output else []
        return self._always + [
            word[-1]
            for word in candidates
            if len(word) - 1 <= len(output) and tuple(output[1 - len(word) :]) == word[:-1]
        ]
