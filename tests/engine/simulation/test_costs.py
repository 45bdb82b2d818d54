"""Seconds of steps: rooflines of cards, interpolation of measured steps, and the fit of both kinds of attention."""

from pathlib import Path

import pytest

from engine.errors import OptionError
from engine.scheduling.steps.work import AttentionSizes, ModelWork, ModuleSizes, StepDemand
from engine.simulation.costs import (
    CARDS,
    CARDS_CHECKED,
    COMPUTE_EFFICIENCY,
    READ_EFFICIENCY,
    CardTimes,
    MeasuredTimes,
    interpolate,
)
from engine.simulation.fitting import MeasuredStep, fit_times
from engine.simulation.hardware import find_card

pytestmark = pytest.mark.fast

GIB, TERA = 2**30, 10**12
WORK = ModelWork(
    ModuleSizes(15 * GIB, 16 * 10**9), ModuleSizes(0, 0), ModuleSizes(GIB, 10**9),
    (AttentionSizes(0, False, 131072, 1 << 20),), (), (), 131072, 0,
)  # fmt: skip
H100 = CARDS["h100"]


def test_few_rows_take_the_reading_of_all_weights() -> None:
    moved = 16 * GIB + 1000 * 131072 + 131072
    expected_s = moved / (H100.read_bytes_per_s * READ_EFFICIENCY)
    assert CardTimes(H100, WORK).step_s(StepDemand(1, 1, 1, 1000 * 131072, 1000 << 20)) == pytest.approx(expected_s)


def test_many_rows_take_their_operations() -> None:
    demand = StepDemand(4096, 0, 1, 0, 0)
    written_s = 4096 * 131072 / (H100.read_bytes_per_s * READ_EFFICIENCY)
    expected_s = 4096 * 16e9 / (H100.flops_per_s * COMPUTE_EFFICIENCY)
    assert CardTimes(H100, WORK).step_s(demand) == pytest.approx(expected_s + written_s)


def test_the_published_measurements_behind_the_efficiencies_come_out() -> None:
    """Qwen3-8B: 16.4 GB in 7.28 ms."""
    work = ModelWork(ModuleSizes(16_400_000_000, 1), ModuleSizes(0, 0), ModuleSizes(0, 0), (), (), (), 0, 0)
    assert CardTimes(H100, work).step_s(StepDemand(1, 1, 1, 0, 0)) == pytest.approx(7.28e-3, rel=0.02)


@pytest.mark.parametrize(("number", "expected"), [(1, 10.0), (2, 20.0), (3, 25.0), (4, 30.0), (8, 50.0), (0, 0.0)])
def test_points_are_interpolated_and_the_last_slope_continues(number: int, expected: float) -> None:
    assert interpolate(((1, 10.0), (2, 20.0), (4, 30.0)), number) == expected


def test_a_fit_gives_the_measured_steps_back() -> None:
    decodes = [
        MeasuredStep(n, n, 0.01 + 0.001 * n, 0.002 * n, 1e-6 * n * 300 + 5e-4 * n, 300 * n, 500 * n) for n in (1, 4)
    ]
    prefills = [MeasuredStep(n, 1, 0.01 + 5e-4 * n, 0.003, 1e-6 * n * n, 0.0, n * n) for n in (128, 512)]
    times = fit_times(prefills, decodes)
    for step, has_bytes in [*((each, True) for each in decodes), *((each, False) for each in prefills)]:
        demand = StepDemand(
            step.num_rows,
            step.num_sequences,
            step.num_sequences,
            int(step.attention_bytes) if has_bytes else 0,
            int(step.attention_flops),
        )
        expected_s = step.rows_s + step.sequences_s + step.attention_s
        assert times.step_s(demand) == pytest.approx(expected_s)


def test_attention_of_a_model_without_it_takes_no_time() -> None:
    step = MeasuredStep(1, 1, 0.01, 0.001, 0.0, 0.0, 0.0)
    times = fit_times([MeasuredStep(128, 1, 0.1, 0.001, 0.0, 0.0, 0.0)], [step])
    assert isinstance(times, MeasuredTimes)
    assert times.step_s(StepDemand(1, 1, 1, 100, 100)) == pytest.approx(0.011)


def test_an_unknown_card_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(OptionError, match=r"there is no hardware 'h1000'; choose this, .* a100, h100"):
        find_card("h1000")


def test_the_documented_table_of_cards_is_the_simulator_s() -> None:
    documented = (Path(__file__).parents[3] / "docs" / "simulation.md").read_text()
    for card in CARDS.values():
        sizes = f"{card.memory_bytes / 1e9:g} GB | {card.read_bytes_per_s / 1e12:g} TB | {card.flops_per_s / 1e12:g} T"
        assert f"| `{card.name}` | {sizes} | {card.source} |" in documented
    assert f"checked {CARDS_CHECKED}" in documented
