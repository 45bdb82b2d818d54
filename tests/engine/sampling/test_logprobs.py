"""Log probabilities against the softmax that they are of."""

import math

import pytest
import torch

from engine.sampling.logprobs import token_logprobs, with_requested_tokens
from models.kernels.torch.logits import LogitOperations

OPS = LogitOperations()
LOGITS = torch.tensor([[1.0, 3.0, 2.0, -float("inf")], [0.5, 0.5, 0.0, 4.0]])


def test_a_rank_counts_the_tokens_that_are_likelier() -> None:
    entries = token_logprobs(OPS, LOGITS, [0, 0], [0, 2], with_ranks=True)
    assert [entry.rank for entry in entries] == [3, 2]  # of equal tokens each has the better rank
    assert entries[1].top[0][0] == 3


def test_ranks_are_left_out_unless_requested() -> None:
    assert token_logprobs(OPS, LOGITS, [0, 0], [0, 0])[0].rank is None


@pytest.mark.parametrize("place", [0, 2])
def test_a_row_with_nan_leaves_its_neighbors_alone(place: int) -> None:
    logits = torch.stack((LOGITS[0], LOGITS[0], LOGITS[1]))
    logits[1, place] = torch.nan
    entries = token_logprobs(OPS, logits, [0, 0, 0], [2, 2, 2])
    assert [entries[0], entries[2]] == token_logprobs(OPS, LOGITS, [0, 0], [2, 2])
    assert math.isnan(entries[1].logprob)
    assert len({token_id for token_id, _ in entries[1].top}) == 2


def test_wanted_tokens_come_in_the_given_order_with_finite_values() -> None:
    entries = with_requested_tokens(OPS, token_logprobs(OPS, LOGITS, [1, 3], [0, 1]), LOGITS, [(3, 2), ()])
    expected = torch.log_softmax(LOGITS, dim=-1)
    assert entries[0].top == [(3, -9999.0), (2, pytest.approx(float(expected[0, 2]), abs=1e-5))]
    assert entries[1].top == [(3, pytest.approx(float(expected[1, 3]), abs=1e-5))]
