"""Repetition, presence and frequency penalties, and logit bias: the steps that edit single logits of a row.

Only the tokens that occur are touched, so a row's cost grows with its distinct tokens and not with the vocabulary.
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
        """The counts as they would be after these tokens, while the context lasts."""
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
        """Every token of the prompt and the output, once."""
        return [*self._output, *(self._prompt - self._output.keys())]


def apply_logit_bias(row: torch.Tensor, bias: dict[int, float]) -> None:
    """Add `bias` to `row` ([V] fp32) in place."""
    ids = torch.tensor(list(bias), device=row.device)
    row[ids] += torch.tensor(list(bias.values()), dtype=row.dtype, device=row.device)


def apply_penalties(row: torch.Tensor, sampling: SamplingParams, counts: TokenCounts) -> None:
    """Penalize tokens that occurred, in place. row: [V] fp32.

    Repetition (Keskar et al. 2019, CTRL) divides positive and multiplies negative logits of every token of prompt and
    output; presence and frequency are OpenAI's: subtracted for tokens of the output.
    """
    if sampling.repetition_penalty != 1.0:
        ids = torch.tensor(counts.occurring(), device=row.device)
        values = row[ids]
        row[ids] = torch.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
    if counts.output and (sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0):
        ids = torch.tensor(list(counts.output), device=row.device)
        occurrences = torch.tensor(list(counts.output.values()), dtype=row.dtype, device=row.device)
        row[ids] -= sampling.presence_penalty + sampling.frequency_penalty * occurrences
