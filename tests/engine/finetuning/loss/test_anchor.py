"""Anchor: the loss of replayed answers, whose first tokens count more."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from engine.command_io.finetuning.items import Passage, TrainingItem
from engine.finetuning.loss import anchor
from engine.finetuning.loss.rows import TrainedRows

LONG, SHORT = (TrainingItem([Passage(list(range(2 + size)), [(2, 2 + size)])]) for size in (7, 2))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> anchor.Anchor:
    """One for which a token's divergence is the number in its row."""
    monkeypatch.setattr(anchor, "base_rows", lambda _, __, items: torch.zeros(items[0].num_trained, 1))
    monkeypatch.setattr(anchor, "divergence", lambda _, hidden, __: hidden[:, 0])
    made = anchor.Anchor(SimpleNamespace(), SimpleNamespace(), anchor.AnchorWeights(mean=2.0, first=10.0))  # type: ignore[arg-type]
    made.remember([LONG, SHORT])
    return made


def _rows(values: Sequence[float]) -> TrainedRows:
    return TrainedRows(torch.tensor(values).unsqueeze(1), torch.zeros(len(values), dtype=torch.int64))


def test_the_first_tokens_of_each_answer_count_beside_the_mean_of_all(made: anchor.Anchor) -> None:
    loss, diverged = made.loss([LONG, SHORT], _rows([1, 1, 1, 4, 9, 9, 9, 2, 3]), [LONG, SHORT])
    assert diverged == pytest.approx(39)
    assert float(loss) == pytest.approx(2 * 39 / 9 + 10 * 12 / 6)


def test_parts_of_a_step_add_up(made: anchor.Anchor) -> None:
    long, short = [1.0, 2, 3, 4, 5, 6, 7], [8.0, 9]
    whole, diverged = made.loss([LONG, SHORT], _rows(long + short), [LONG, SHORT])
    parts = [made.loss([LONG], _rows(long), [LONG, SHORT]), made.loss([SHORT], _rows(short), [LONG, SHORT])]
    assert sum(float(loss) for loss, _ in parts) == pytest.approx(float(whole))
    assert sum(each for _, each in parts) == pytest.approx(diverged)
