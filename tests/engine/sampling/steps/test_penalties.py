"""Penalties: what is kept from step to step gives the logits that the definitions give, with drafts and preemptions."""

import random

import pytest
import torch

from engine.sampling.steps.penalties import Penalties
from engine.scheduling.sequence import Sequence
from tests.helpers.engines import make_request
from tests.helpers.logits_rows import rows_of

VOCAB_SIZE = 24


def _expected(logits: torch.Tensor, sequence: Sequence, drafted: list[int]) -> torch.Tensor:
    """Computed token by token. drafted: the draft tokens before the row."""
    sampling, output = sequence.request.sampling, sequence.tokens[sequence.num_prompt :] + drafted
    expected = logits.clone()
    for token in set(sequence.tokens + drafted):
        value, penalty = logits[token], sampling.repetition_penalty
        expected[token] = value / penalty if value > 0 else value * penalty
        if token in output:
            expected[token] -= sampling.presence_penalty + sampling.frequency_penalty * output.count(token)
    return expected


@pytest.mark.parametrize("seed", range(12))
def test_penalties_are_those_of_all_tokens_so_far(seed: int) -> None:
    source = random.Random(seed)
    penalties = {"repetition_penalty": source.choice([1.0, 1.3]), "frequency_penalty": source.choice([0.0, 0.2])}
    request = make_request("a", source.choices(range(VOCAB_SIZE), k=5), presence_penalty=0.3, **penalties)
    sequence = Sequence(request, 0, list(request.prompt_ids), len(request.prompt_ids))
    step = Penalties()
    for _ in range(15):
        sequence.draft = source.choices(range(VOCAB_SIZE), k=source.choice([0, 0, 3]))
        for row in rows_of(sequence):
            logits = torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(row.position))
            expected = _expected(logits, sequence, row.drafted)
            step.apply(logits, row)
            torch.testing.assert_close(logits, expected)
        sequence.tokens += source.choices(range(VOCAB_SIZE), k=source.choice([1, 1, 2]))
