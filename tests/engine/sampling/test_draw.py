"""uniform and draw: keyed random numbers, and inversion of a distribution."""

import torch

from engine.sampling.draw import uniform
from models.kernels.torch.draw import draw


def test_uniform_is_a_function_of_seed_and_position() -> None:
    assert uniform(7, 3) == uniform(7, 3)
    assert len({uniform(seed, position) for seed in range(50) for position in range(50)}) == 2500


def test_uniform_fills_the_unit_interval_evenly() -> None:
    numbers = torch.tensor([uniform(1, position) for position in range(20_000)], dtype=torch.float64)
    assert float(numbers.min()) >= 0.0
    assert float(numbers.max()) < 1.0
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_square < 43.8  # 19 degrees of freedom, 0.1 %


def test_draw_takes_the_entry_that_the_number_falls_on() -> None:
    weights = torch.tensor([[1.0, 0.0, 2.0, 1.0]] * 5)
    uniforms = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76])
    assert draw(weights, uniforms).tolist() == [0, 0, 2, 2, 3]


def test_draw_never_takes_an_entry_without_weight() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for number in (0.0, 0.5, 1.0 - 2**-53):
        assert draw(weights, torch.tensor([number, number], dtype=torch.float64)).tolist() == [1, 2]


def test_draw_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    numbers = torch.tensor([uniform(2, position) for position in range(20_000)], dtype=torch.float64)
    counts = torch.bincount(draw(probabilities.expand(20_000, 4), numbers), minlength=4)
    expected = probabilities * 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # 3 degrees of freedom, 0.1 %
