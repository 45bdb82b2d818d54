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

    Invariants: the counts cover exactly the first `_num_seen` tokens, and `_ids` their distinct ids; tokens are only
    appended, even after a preemption. A long context has thousands of different tokens, so a step's Python time depends
    on new ones alone.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._ids = torch.empty(0, dtype=torch.int64)  # of `_seen`, on the device of the logits
        self._output: Counter[int] = Counter()
        self._num_seen = 0

    def apply(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        known = row.known_from(self._num_seen)
        self._output.update(known[max(0, row.num_prompt - self._num_seen) :])
        self._num_seen = row.num_known
        output = self._output
        if row.num_drafted:
            output = output.copy()
            output.update(row.drafted)
        if row.sampling.repetition_penalty != 1.0:
            self._ids = self._with_new(known, logits.device)
            self._seen.update(known)
            _penalize_repetition(logits, row.sampling.repetition_penalty, self._with_new(row.drafted, logits.device))
        _penalize_output(logits, row.sampling, output)
        return True

    def _with_new(self, token_ids: abc.Iterable[int], device: torch.device) -> torch.Tensor:
        """Return the ids seen before, and those among `token_ids` that were not."""
        new = [token_id for token_id in dict.fromkeys(token_ids) if token_id not in self._seen]
        return torch.cat([self._ids.to(device), torch.tensor(new, device=device)]) if new else self._ids


def _penalize_repetition(logits: torch.Tensor, penalty: float, ids: torch.Tensor) -> None:
    """Apply the repetition penalty in place. ids: distinct tokens that occurred."""
    values = logits[ids]
    logits[ids] = torch.where(values > 0, values / penalty, values * penalty)


def _penalize_output(logits: torch.Tensor, sampling: SamplingParams, output: abc.Mapping[int, int]) -> None:
    """Apply the presence and frequency penalties in place. output: the number of occurrences of each token."""
    if output and (sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0):
        ids = torch.tensor(list(output), device=logits.device)
        occurrences = torch.tensor(list(output.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * occurrences
