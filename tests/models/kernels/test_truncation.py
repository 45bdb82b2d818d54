"""truncate against a plain definition of top-k, top-p and min-p on a fully sorted row."""

import pytest
import torch

from models.kernels.torch.truncation import TruncationParams, truncate


def _params(rows: list[tuple[int, float, float]]) -> TruncationParams:
    top_k, top_p, min_p = zip(*rows, strict=True)
    return TruncationParams(
        top_k=torch.tensor(top_k),
        top_p=torch.tensor(top_p, dtype=torch.float64),
        min_p=torch.tensor(min_p, dtype=torch.float64),
    )


def _expected_ids(logits: torch.Tensor, top_k: int, top_p: float, min_p: float) -> set[int]:
    probabilities = torch.softmax(logits.double(), dim=-1)
    order = torch.argsort(logits, descending=True)
    survivors = order[: top_k or len(order)]
    p = probabilities[survivors] / probabilities[survivors].sum()
    before = p.cumsum(0) - p
    survivors = survivors[(before < top_p) | (top_p >= 1.0)]
    return {int(i) for i in survivors if probabilities[i] >= min_p * probabilities.max()}


@pytest.mark.parametrize("vocab_size", [7, 300, 5000])
def test_truncate_agrees_with_the_definitions(vocab_size: int) -> None:
    torch.manual_seed(vocab_size)
    rows = [
        (0, 0.9, 0.0),
        (5, 1.0, 0.0),
        (3, 0.5, 0.0),
        (0, 1.0, 0.1),
        (50, 0.95, 0.05),
        (0, 0.999, 0.0),
        (1, 1.0, 0.0),
    ]
    logits = torch.randn(len(rows), vocab_size) * torch.tensor([1.0, 2, 3, 1, 2, 0.3, 1]).unsqueeze(-1)
    ids, weights = truncate(logits, _params(rows))
    for row, limits in enumerate(rows):
        survivors = {int(i) for i, w in zip(ids[row], weights[row], strict=True) if w > 0}
        assert survivors == _expected_ids(logits[row], *limits), limits


def test_truncate_weights_are_proportional_to_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1000)
    ids, weights = truncate(logits, _params([(20, 1.0, 0.0)]))
    expected = torch.softmax(logits.double(), dim=-1)[0, ids[0]]
    survivors = weights[0] > 0
    assert torch.allclose(
        weights[0][survivors] / weights[0].sum(), expected[survivors] / expected[survivors].sum(), rtol=1e-5
    )


def test_truncate_keeps_ties_together_in_order_of_id() -> None:
    logits = torch.zeros(1, 600)  # every token ties, also those outside the first window
    logits[0, 17] = 1.0
    ids, weights = truncate(logits, _params([(2, 1.0, 0.0)]))
    assert ids[0].tolist() == list(range(600))
    assert int((weights > 0).sum()) == 600


def test_truncate_outcome_does_not_depend_on_batch_mates() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 4000)
    alone_ids, alone = truncate(logits[:1], _params([(0, 0.5, 0.0)]))
    together_ids, together = truncate(logits, _params([(0, 0.5, 0.0), (2000, 0.99, 0.0)]))

    def survivors_of(ids: torch.Tensor, weights: torch.Tensor) -> list[tuple[int, float]]:
        return [(int(i), float(w)) for i, w in zip(ids, weights, strict=True) if w > 0]

    assert survivors_of(alone_ids[0], alone[0]) == survivors_of(together_ids[0], together[0])
