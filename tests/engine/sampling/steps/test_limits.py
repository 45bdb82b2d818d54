"""Top-n-sigma, typical and XTC against plain definitions and transformers, alone and one after the other."""

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TypicalLogitsWarper

from engine.protocol import EngineRequest, SamplingParams
from engine.protocol.sampling_params import XtcParams
from engine.sampling.distribution import draw_ids, probabilities
from engine.sampling.draw import Purpose, uniform
from engine.sampling.rows import LogitsRow
from engine.sampling.steps.xtc import excludes_top_choices
from engine.scheduling.sequence import Sequence
from models.kernels.ops import select_operations
from models.kernels.torch.logits import LogitOperations
from tests.helpers.logits_rows import rows_of
from tests.helpers.sampling_references import sigma_survivors, softmax, typical_survivors, xtc_survivors
from tests.helpers.statistics import goodness_p

ALWAYS = XtcParams(probability=1.0, threshold=0.05)


def _row(*, seed: int = 1, **sampling: object) -> LogitsRow:
    params = SamplingParams(max_tokens=50, **sampling)  # type: ignore[arg-type]
    request = EngineRequest(id=f"s{seed}", prompt_ids=[1], sampling=params, arrival_s=0.0)
    return rows_of(Sequence(request=request, seed=seed, tokens=[1], num_prompt=1))[0]


def _logits(num_rows: int, vocab_size: int, *, num_banned: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(num_rows, vocab_size, generator=generator) * 2.5
    logits[:, :num_banned] = -torch.inf
    return logits


def _survivors(logits: torch.Tensor, **sampling: object) -> list[set[int]]:
    rows = [_row(seed=seed, **sampling) for seed in range(len(logits))]
    return [set(row.nonzero().squeeze(-1).tolist()) for row in probabilities(logits.clone(), rows)]


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_banned", [0, 3])
def test_top_n_sigma_agrees_with_its_definition(n: float, num_banned: int) -> None:
    logits = _logits(6, 300, num_banned=num_banned)
    expected = [sigma_survivors(row.double().numpy(), n) for row in logits]
    assert _survivors(logits, top_n_sigma=n) == expected
    assert _survivors(logits, top_n_sigma=n, temperature=1.7) == expected


@pytest.mark.parametrize("mass", [0.05, 0.2, 0.6, 0.95, 0.999999])
@pytest.mark.parametrize("num_banned", [0, 3])
def test_typical_agrees_with_its_definition(mass: float, num_banned: int) -> None:
    logits = _logits(6, 700, num_banned=num_banned)
    expected = [typical_survivors(softmax(row.double().numpy() / 1.4), mass) for row in logits]
    assert _survivors(logits, typical_p=mass, temperature=1.4) == expected


@pytest.mark.parametrize("vocab_size", [40, 5000])
@pytest.mark.parametrize("mass", [0.2, 0.9])
def test_typical_agrees_with_transformers(vocab_size: int, mass: float) -> None:
    logits = _logits(8, vocab_size)
    theirs = TypicalLogitsWarper(mass=mass)(None, logits)  # type: ignore[arg-type]
    assert _survivors(logits, typical_p=mass) == [
        set((row > -torch.inf).nonzero().flatten().tolist()) for row in theirs
    ]


def test_typical_may_rule_out_the_likeliest_token() -> None:
    probs = torch.tensor([[0.4, *[0.6 / 30] * 30]])
    (survivors,) = _survivors(probs.log(), typical_p=0.3)
    assert 0 not in survivors
    assert len(survivors) == 30  # ties go together


def test_a_token_of_the_whole_mass_is_the_only_typical_one() -> None:
    logits = torch.full((1, 50), -torch.inf)
    logits[0, 7] = 2.0
    assert _survivors(logits, typical_p=0.5, top_n_sigma=1.0) == [{7}]


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.5])
def test_xtc_agrees_with_its_definition(threshold: float) -> None:
    logits = _logits(6, 300)
    expected = [xtc_survivors(softmax(row.double().numpy()), threshold) for row in logits]
    assert _survivors(logits, xtc=XtcParams(probability=1.0, threshold=threshold)) == expected


def test_xtc_leaves_ties_for_the_least_likely_top_choice() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.06, 0.04]]).log()
    assert _survivors(logits, xtc=XtcParams(probability=1.0, threshold=0.1)) == [{1, 2, 3, 4}]
    assert _survivors(logits, xtc=XtcParams(probability=1.0, threshold=0.3)) == [{0, 1, 2, 3, 4}]


def _expected(logits: np.ndarray) -> np.ndarray:
    """In the documented order: temperature, top-n-sigma, top-k, typical, top-p, min-p, XTC."""
    survivors = sigma_survivors(logits, 2.5)
    by_value = sorted(survivors, key=lambda i: -logits[i])
    survivors = set(by_value[:60])
    probs = _renormalized(softmax(logits / 1.3), survivors)
    survivors = typical_survivors(probs, 0.97)
    probs = _renormalized(probs, survivors)
    order = np.argsort(-probs)
    before = np.cumsum(probs[order]) - probs[order]
    survivors &= {int(i) for i, mass in zip(order, before, strict=True) if mass < 0.9}
    survivors = {i for i in survivors if probs[i] >= 0.02 * probs.max()}
    probs = _renormalized(probs, survivors)
    return _renormalized(probs, xtc_survivors(probs, 0.05))


def _renormalized(probs: np.ndarray, survivors: set[int]) -> np.ndarray:
    result = np.zeros_like(probs)
    chosen = sorted(survivors)
    result[chosen] = probs[chosen] / probs[chosen].sum()
    return result


ALL_LIMITS = {
    "temperature": 1.3,
    "top_n_sigma": 2.5,
    "top_k": 60,
    "typical_p": 0.97,
    "top_p": 0.9,
    "min_p": 0.02,
    "xtc": ALWAYS,
}


def test_all_limits_apply_in_the_documented_order() -> None:
    logits = _logits(20, 2000)
    found = probabilities(logits.clone(), [_row(**ALL_LIMITS) for _ in logits])
    for row, probs in zip(logits, found, strict=True):
        np.testing.assert_allclose(probs.numpy(), _expected(row.double().numpy()), atol=1e-6)


COLUMNS = [LogitOperations(), select_operations(torch.float32, torch.device("cpu")).logits()]
LIMITS: dict[str, dict[str, object]] = {
    "top_n_sigma": {"top_n_sigma": 2.0},
    "typical": {"typical_p": 0.6},
    "xtc": {"xtc": XtcParams(probability=0.4, threshold=0.1)},
    "all": ALL_LIMITS,
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("ops", COLUMNS)
def test_draws_follow_the_distribution(name: str, ops: LogitOperations) -> None:
    """With XTC, rows have two distributions."""
    draws = 8_000
    row_logits = torch.randn(30, generator=torch.Generator().manual_seed(3)) * 1.5
    rows = [_row(seed=seed, **LIMITS[name]) for seed in range(draws)]
    logits = row_logits.expand(draws, 30)
    probs = probabilities(logits.clone(), rows).double()
    ids = draw_ids(ops, logits.clone(), rows, [uniform(row.seed, 1) for row in rows])
    expected = probs.sum(dim=0).numpy()[None]
    counts = torch.bincount(torch.tensor(ids), minlength=30).numpy()[None]
    assert counts[expected == 0].sum() == 0
    frequent = expected[0] >= 5
    expected, counts = expected[:, frequent], counts[:, frequent]
    assert goodness_p(counts, expected * counts.sum() / expected.sum()) > 0.001


def test_xtc_uses_a_random_number_of_its_own() -> None:
    rows = [_row(seed=seed, xtc=XtcParams(probability=0.3)) for seed in range(20_000)]
    excluded = np.array([excludes_top_choices(row) for row in rows])
    drawn = np.array([uniform(row.seed, row.position) for row in rows])
    assert excluded.mean() == pytest.approx(0.3, abs=0.02)
    assert np.corrcoef(excluded, drawn)[0, 1] == pytest.approx(0.0, abs=0.04)
    assert len({purpose.value for purpose in Purpose}) == len(Purpose)


@pytest.mark.parametrize("ops", COLUMNS)
def test_a_row_is_drawn_alike_alone_and_in_a_batch(ops: LogitOperations) -> None:
    logits = _logits(12, 3000)
    rows = [_row(seed=seed, **LIMITS[list(LIMITS)[seed % 4]]) for seed in range(12)]
    numbers = [uniform(row.seed, row.position) for row in rows]
    together = draw_ids(ops, logits.clone(), rows, numbers)
    alone = [draw_ids(ops, logits[i : i + 1].clone(), rows[i : i + 1], numbers[i : i + 1])[0] for i in range(12)]
    assert together == alone
