"""Penalties: repetition, presence and frequency penalties for tokens that occurred.

Only logits of tokens that occurred are touched, so the cost grows with their number and not with the vocabulary.
"""

from collections import Counter, abc

import torch

from engine.protocol import SamplingParams
from engine.sampling.rows import LogitsRow


class Penalties:
    """Applies the penalties of one sequence, counting its tokens.

    The repetition penalty (CTRL: Keskar et al. 2019) divides positive logits and multiplies negative ones, for every
    token of the prompt and output. OpenAI's presence and frequency penalties are subtracted for tokens of the output.

    Invariant: the counts cover exactly the first `_num_seen` tokens; tokens are only appended, even after a preemption.
    """

    def __init__(self) -> None:
        self._prompt: set[int] = set()
        self._output: Counter[int] = Counter()
        self._num_seen = 0

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        if self._num_seen < row.num_prompt:
            self._prompt.update(row.tokens[: row.num_prompt])
            self._num_seen = row.num_prompt
        self._output.update(row.known_from(self._num_seen))
        self._num_seen = row.num_known
        output = self._output
        if row.num_drafted:
            output = output.copy()
            output.update(row.drafted)
        _penalize(logits, row.sampling, self._prompt, output)
        return True


def _penalize(
    logits: torch.Tensor, sampling: SamplingParams, prompt: abc.Set[int], output: abc.Mapping[int, int]
) -> None:
    """Apply penalties in place. prompt: distinct prompt tokens. output: the number of occurrences of each token."""
    if sampling.repetition_penalty != 1.0:
        ids = torch.tensor([*output, *(prompt - output.keys())], device=logits.device)
        values = logits[ids]
        penalty = sampling.repetition_penalty
        logits[ids] = torch.where(values > 0, values / penalty, values * penalty)
    if output and (sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0):
        ids = torch.tensor(list(output), device=logits.device)
        occurrences = torch.tensor(list(output.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * occurrences
