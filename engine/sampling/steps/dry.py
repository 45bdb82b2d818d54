"""DryPenalties: penalizes tokens that would continue a repetition (DRY, "don't repeat yourself", by p-e-w, 2024).

If the last n tokens occurred before, sampling the token that followed them there makes the repetition n + 1 long. From
n = allowed_length on, its logit is lowered by multiplier * base ** (n - allowed_length), for the longest n of each
token. Repetitions are searched in the last `window` tokens, including the prompt, and do not extend back over a
breaker: a token that contains one of the breaker strings, or a token sequence that spells one. As in llama.cpp, a token
that contains a breaker is never penalized.

Uses numpy, not torch: the arrays are short, and calling torch's operators would take longer than running them.
"""

import copy
import math
from collections import abc

import numpy as np
import torch

from engine.protocol.sampling_params import DryParams
from engine.sampling.rows import LogitsRow

# The largest penalty. It rules a token out as well as any, and is finite: it never leaves a row without a token.
_MAX_PENALTY = 1e30


class Repetitions:
    """Tracks how long a repetition ends at each of the last `window` tokens of a growing sequence.

    Invariant: `_lengths[i]` is the length of the longest common suffix of the text up to `tokens[i]` and the whole
    text, within the window; at the last token it has no meaning.
    """

    __slots__ = ("_lengths", "_window", "num_seen", "tokens")

    def __init__(self, tokens: abc.Sequence[int], window: int) -> None:
        """tokens: the whole sequence so far; only the last `window` are used."""
        self._window = window
        self.num_seen = len(tokens)
        self.tokens = np.array(tokens[-window:], dtype=np.int64)
        self._lengths = np.array(_common_suffixes(self.tokens.tolist()), dtype=np.int64)

    def push(self, token_ids: abc.Iterable[int]) -> None:
        """Append tokens, in O(window) time each."""
        for token_id in token_ids:
            self.num_seen += 1
            longer = np.append(np.where(self.tokens == token_id, np.append(0, self._lengths[:-1]) + 1, 0), 0)
            self.tokens = np.append(self.tokens, token_id)[-self._window :]
            self._lengths = longer[-self._window :]

    def extended_by(self, token_ids: list[int]) -> "Repetitions":
        """Return a copy with more tokens appended; this object does not change."""
        if not token_ids:
            return self
        longer = copy.copy(self)
        longer.push(token_ids)  # makes new arrays
        return longer

    def lengths(self) -> np.ndarray:
        """Return the length of the repetition that ends at each token of the window except the last: [n - 1]."""
        inside = np.arange(1, len(self.tokens))  # tokens of the window up to each place
        return np.minimum(self._lengths[:-1], inside)


def _common_suffixes(tokens: list[int]) -> list[int]:
    """Return, for each position, the length of the longest common suffix of the text up to it and the whole text; 0 for
    the last.

    Computed as the Z function of the reversed text, in linear time (Gusfield 1997, section 1.4).
    """
    text, n = tokens[::-1], len(tokens)
    z = [0] * n
    start = end = 0  # the match that reaches furthest: text[start:end] == text[: end - start]
    for i in range(1, n):
        length = min(z[i - start], end - i) if i < end else 0
        while i + length < n and text[length] == text[i + length]:
            length += 1
        z[i] = length
        if i + length > end:
            start, end = i, i + length
    return z[::-1]


class _Breakers:
    """Tokens and token sequences that a repetition may not extend over."""

    def __init__(self, params: DryParams, vocab_size: int) -> None:
        bits = np.unpackbits(np.frombuffer(params.breaker_mask, dtype=np.uint8), bitorder="little").astype(bool)
        self.is_single = np.zeros(max(vocab_size, len(bits)), dtype=bool)
        self.is_single[: len(bits)] = bits
        self._tails: dict[int, list[tuple[int, ...]]] = {}  # of sequences, by their first token
        for head, *tail in params.breaker_sequences:
            self._tails.setdefault(head, []).append(tuple(tail))
        self._begins = self.is_single.copy()
        self._begins[list(self._tails)] = True

    def num_after_last(self, tokens: np.ndarray) -> int:
        """Return the number of tokens after the last breaker; all of them if there is none."""
        for place in np.flatnonzero(self._begins[tokens])[::-1].tolist():
            head, end = int(tokens[place]), place + 1
            lengths = [
                len(tail) for tail in self._tails.get(head, []) if tuple(tokens[end : end + len(tail)].tolist()) == tail
            ]
            if lengths or self.is_single[head]:
                return len(tokens) - end - max(lengths, default=0)
        return len(tokens)


class DryPenalties:
    """Applies DRY to one sequence, tracking its repetitions."""

    def __init__(self, params: DryParams, tokens: abc.Sequence[int], *, vocab_size: int) -> None:
        """tokens: the sequence so far, with its prompt."""
        self._params = params
        self.repetitions = Repetitions(tokens, params.window)
        self._breakers = _Breakers(params, vocab_size)

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        self.repetitions.push(row.known_from(self.repetitions.num_seen))
        ids, penalties = _penalties(self.repetitions.extended_by(row.drafted), self._breakers, self._params)
        if len(ids):
            device_ids = torch.from_numpy(ids).to(logits.device)
            logits[device_ids] -= torch.from_numpy(penalties).to(logits)
        return bool(len(ids))


def _penalties(repetitions: Repetitions, breakers: _Breakers, params: DryParams) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids, and the penalty to subtract from the logit of each."""
    tokens, allowed = repetitions.tokens, params.allowed_length
    longest = breakers.num_after_last(tokens)
    none = np.zeros(0, dtype=np.int64), np.zeros(0)
    if len(tokens) <= allowed or longest < allowed:
        return none
    lengths = np.minimum(repetitions.lengths(), longest)
    continuing = lengths >= allowed
    next_ids, lengths = tokens[1:][continuing], lengths[continuing]
    is_penalized = ~breakers.is_single[next_ids]
    next_ids, lengths = next_ids[is_penalized], lengths[is_penalized]
    if not len(next_ids):
        return none
    ids, place_of = np.unique(next_ids, return_inverse=True)
    most = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(most, place_of, lengths)
    largest_exponent = math.log(_MAX_PENALTY) / math.log(params.base) if params.base > 1 else math.inf
    penalties = params.multiplier * params.base ** np.minimum(most - allowed, largest_exponent)
    return ids, np.minimum(penalties, _MAX_PENALTY)
