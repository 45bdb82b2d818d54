"""Penalties: repetition, presence and frequency penalties for tokens that occurred.

Only the tokens that occurred are touched, so a row's cost grows with its distinct tokens and not with the vocabulary.
"""

import contextlib
from collections.abc import Iterator

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow


class TokenCounts:
    """How often each token occurs in one sequence, updated as its tokens grow.

    Invariant: the counts cover exactly the first `num_seen` tokens; tokens are only appended, even after a preemption.
    """

    __slots__ = ("_num_seen", "_output", "_prompt")

    def __init__(self) -> None:
        self._prompt: set[int] = set()
        self._output: dict[int, int] = {}
        self._num_seen = 0

    def update(self, row: LogitsRow) -> None:
        """Count the tokens since the last call, up to the row's draft."""
        if self._num_seen < row.num_prompt:
            self._prompt.update(row.tokens[: row.num_prompt])
            self._num_seen = row.num_prompt
        for token_id in row.known_from(self._num_seen):
            self._output[token_id] = self._output.get(token_id, 0) + 1
        self._num_seen = row.num_known

    @contextlib.contextmanager
    def extended_by(self, drafted: list[int]) -> Iterator[None]:
        """Count these tokens too, while the context lasts."""
        for token_id in drafted:
            self._output[token_id] = self._output.get(token_id, 0) + 1
        try:
            yield
        finally:
            for token_id in drafted:
                self._output[token_id] -= 1
                if self._output[token_id] == 0:
                    del self._output[token_id]

    @property
    def output(self) -> dict[int, int]:
        return self._output

    def occurring(self) -> list[int]:
        """Return every token of the prompt and the output, once."""
        return [*self._output, *(self._prompt - self._output.keys())]


class Penalties:
    """Repetition (Keskar et al. 2019, CTRL) divides positive logits and multiplies negative ones, for every token of
    prompt and output. Presence and frequency are OpenAI's: they are subtracted for tokens of the output."""

    def __init__(self) -> None:
        self._counts: dict[str, TokenCounts] = {}

    def is_used(self, sampling: SamplingParams) -> bool:
        return sampling.has_penalties

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        counts = self._counts.setdefault(row.sequence_id, TokenCounts())
        counts.update(row)
        with counts.extended_by(row.drafted):
            _penalize(logits, row.sampling, counts)
        return True

    def release(self, sequence_id: str) -> None:
        self._counts.pop(sequence_id, None)


def _penalize(logits: torch.Tensor, sampling: SamplingParams, counts: TokenCounts) -> None:
    if sampling.repetition_penalty != 1.0:
        ids = torch.tensor(counts.occurring(), device=logits.device)
        values = logits[ids]
        penalty = sampling.repetition_penalty
        logits[ids] = torch.where(values > 0, values / penalty, values * penalty)
    if counts.output and (sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0):
        ids = torch.tensor(list(counts.output), device=logits.device)
        occurrences = torch.tensor(list(counts.output.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * occurrences
