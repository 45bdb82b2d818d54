"""draw_weights: the same numbers for the same seed and name, however they are divided."""

import pytest
import torch

from models.checkpoints import dummy
from models.checkpoints.dummy import DummyCheckpoint, draw_weights

CPU = torch.device("cpu")
KNOWN = [0.3502676486968994, 0.5514848828315735, 0.7281979322433472]


def draw(seed: int = 0, name: str = "a", *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    checkpoint = DummyCheckpoint(seed, torch.bfloat16)
    return draw_weights(checkpoint, name, shape or (4096,), 0.5, 0.25, CPU, dtype)


def test_numbers_are_uniform_around_the_center() -> None:
    numbers = draw(0, "a", 64, 1024)

    assert numbers.shape == (64, 1024)
    assert 0.25 <= float(numbers.min()) < 0.2501
    assert 0.7499 < float(numbers.max()) <= 0.75  # rounded
    assert torch.histc(numbers, 16, 0.25, 0.75).sub(4096).abs().max() < 256  # four standard deviations
    assert torch.corrcoef(numbers).fill_diagonal_(0).abs().max() < 0.2  # rows are unlike
    assert abs(float(torch.corrcoef(torch.stack([numbers.flatten()[1:], numbers.flatten()[:-1]]))[0, 1])) < 0.02


def test_seed_and_name_decide() -> None:
    assert torch.equal(draw(1, "a"), draw(1, "a"))
    for other in (draw(2, "a"), draw(1, "b")):
        assert abs(float(torch.corrcoef(torch.stack([draw(1, "a"), other]))[0, 1])) < 0.1


def test_numbers_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(5, "a", 1000)
    monkeypatch.setattr(dummy, "_CHUNK", 96)
    assert torch.equal(draw(5, "a", 1000), whole)


def test_known_numbers_do_not_change() -> None:
    """Measurements of two versions compare the same model."""
    assert draw(0, "a", 3).tolist() == pytest.approx(KNOWN, abs=1e-7)


def test_narrow_dtypes_are_rounded_once() -> None:
    assert torch.equal(draw(0, "a", 64, dtype=torch.bfloat16), draw(0, "a", 64).to(torch.bfloat16))
