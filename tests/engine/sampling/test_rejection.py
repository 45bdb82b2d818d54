"""Verification is lossless: emitted tokens follow exact distributions at n = 200,000, and wrong rules are found out.

Vocabulary of five, so that the distribution after every possible prefix can be listed. The expected probabilities come
from plain definitions in numpy; p and q themselves from the sampler's pipeline.
"""

import functools
import itertools

import numpy as np
import pytest
import torch

from engine.protocol import EngineRequest, SamplingParams
from engine.protocol.sampling_params import DryParams, XtcParams
from engine.sampling.distribution import probabilities
from engine.sampling.draw import Purpose, uniform
from engine.sampling.logit_edits import LogitEditor
from engine.sampling.rejection import agreeing_prefix, verify
from engine.scheduling.sequence import Sequence
from models.kernels.torch.draw import draw
from models.kernels.torch.logits import LogitOperations
from tests.helpers.logits_rows import rows_of
from tests.helpers.sampling_references import (
    dry_penalties,
    sigma_survivors,
    softmax,
    typical_survivors,
    xtc_survivors,
)
from tests.helpers.statistics import goodness_p, significant

V = 5
N = 200_000
PROMPT = [3]
PARAMETERS: dict[str, dict[str, object]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.3},
    "penalties": {"repetition_penalty": 1.4, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    "bias": {"logit_bias": {1: 1.5, 4: -2.0}, "top_p": 0.9},
    "mask": {"temperature": 0.9, "top_k": 4},  # of the target; the draft does not know it
    "top_n_sigma": {"top_n_sigma": 1.1},
    "typical": {"typical_p": 0.7},
    "xtc": {"xtc": XtcParams(probability=0.6, threshold=0.15), "min_p": 0.05},
    "dry": {"dry": DryParams(multiplier=0.5, base=1.5, allowed_length=1)},
    "bans": {"bad_words": ((4,), (0, 1), (2, 2, 3)), "allowed_token_ids": (0, 1, 2, 3)},
}
SEED = 3  # XTC excludes at some of the positions, and not at others


@functools.cache
class Case:
    """All prefixes of up to k tokens, with the target's and the draft's distribution after each."""

    def __init__(self, name: str, k: int) -> None:
        self.k = k
        self.params = SamplingParams(max_tokens=9, **{"temperature": 1.0, **PARAMETERS[name]})  # type: ignore[arg-type]
        self.prefixes = [list(ids) for length in range(k + 1) for ids in itertools.product(range(V), repeat=length)]
        self.first = [sum(V**i for i in range(length)) for length in range(k + 2)]
        rng = np.random.default_rng(7)
        target = rng.normal(size=(V, V)) * 1.2
        draft = target + rng.normal(size=(V, V)) * 0.5
        if name == "mask":
            target[:, 2] = -np.inf
        # Prefixes with the same last token (and for some steps more in common) have one distribution.
        key_of = [(*_more_of(name, ids), *ids[-1:]) for ids in self.prefixes]
        examples = list(dict(zip(key_of, self.prefixes, strict=True)).values())
        number = {key: index for index, key in enumerate(dict.fromkeys(key_of))}
        rows = torch.tensor([number[key] for key in key_of])
        self.p = self._distributions(target, examples)[rows]
        self.q = self._distributions(draft, examples)[rows]
        self.exact = np.stack([self._exact(target, prefix) for prefix in examples])[rows.numpy()]

    def _distributions(self, logits_after: np.ndarray, prefixes: list[list[int]]) -> torch.Tensor:
        logits = torch.tensor(np.stack([logits_after[[*PROMPT, *ids][-1]] for ids in prefixes]), dtype=torch.float)
        request = EngineRequest(id="a", prompt_ids=PROMPT, sampling=self.params, arrival_s=0.0)
        sequences = [Sequence(request, SEED, list(PROMPT), len(PROMPT), draft=ids) for ids in prefixes]
        rows = [rows_of(sequence)[-1] for sequence in sequences]
        LogitEditor([], LogitOperations()).edit(logits, rows)
        return probabilities(logits, rows)

    def _exact(self, logits_after: np.ndarray, prefix: list[int]) -> np.ndarray:
        """Each step as its definition says, in fp64."""
        s = self.params
        row = logits_after[[*PROMPT, *prefix][-1]].copy()
        for token_id, bias in s.logit_bias.items():
            row[token_id] += bias
        for token_id in {*PROMPT, *prefix}:
            row[token_id] *= s.repetition_penalty if row[token_id] < 0 else 1 / s.repetition_penalty
        for token_id in set(prefix):
            row[token_id] -= s.presence_penalty + s.frequency_penalty * prefix.count(token_id)
        if s.dry is not None:
            names = ("multiplier", "base", "allowed_length", "window")
            values = {name: getattr(s.dry, name) for name in names}
            for token_id, penalty in dry_penalties([*PROMPT, *prefix], **values).items():
                row[token_id] -= penalty
        allowed = range(V) if s.allowed_token_ids is None else s.allowed_token_ids
        for token_id in range(V):
            endings = [word for word in s.bad_words if tuple([*prefix, token_id][-len(word) :]) == word]
            if token_id not in allowed or endings:
                row[token_id] = -np.inf
        if s.top_n_sigma:
            row = _only(row, sigma_survivors(row, s.top_n_sigma), -np.inf)
        p = softmax(row / s.temperature)
        if s.typical_p < 1:
            p = _only(p, typical_survivors(p, s.typical_p))
            p /= p.sum()
        order = np.argsort(-p)[: s.top_k or V]
        survivors = p[order] / p[order].sum()
        survivors[(np.cumsum(survivors) - survivors >= s.top_p) & (s.top_p < 1)] = 0
        survivors[survivors < s.min_p * survivors[0]] = 0
        result = np.zeros(V)
        result[order] = survivors / survivors.sum()
        if s.xtc is not None and uniform(SEED, len(PROMPT) + len(prefix), Purpose.XTC) < s.xtc.probability:
            result = _only(result, xtc_survivors(result, s.xtc.threshold))
        return result / result.sum()

    def rows_along(self, drafts: np.ndarray) -> np.ndarray:
        """[n, k + 1]: the index of each prefix of each draft ([n, k])."""
        codes = np.zeros(len(drafts), np.int64)
        rows = [codes]
        for place in range(drafts.shape[1]):
            codes = codes * V + drafts[:, place]
            rows.append(self.first[place + 1] + codes)
        return np.stack(rows, axis=1)

    def draw_drafts(self, rng: np.random.Generator) -> np.ndarray:
        drafts = np.zeros((N, 0), np.int64)
        for _ in range(self.k):
            weights = self.q[torch.from_numpy(self.rows_along(drafts)[:, -1])]
            ids = draw(weights, torch.from_numpy(rng.random(N))).numpy()
            drafts = np.concatenate([drafts, ids[:, None]], axis=1)
        return drafts

    def best_drafts(self) -> np.ndarray:
        drafts = np.zeros((1, 0), np.int64)
        for _ in range(self.k):
            best = self.q[torch.from_numpy(self.rows_along(drafts)[:, -1])].argmax(dim=-1).numpy()
            drafts = np.concatenate([drafts, best[:, None]], axis=1)
        return np.repeat(drafts, N, axis=0)

    def p_values(self, drafts: np.ndarray, num_accepted: np.ndarray, next_ids: np.ndarray) -> dict[str, float]:
        """p-values of all emitted tokens, against the exact distributions after the tokens before.

        One a position, with the tokens of the runs that reached it.
        """
        rows = self.rows_along(drafts)
        emitted = np.concatenate([drafts, np.zeros((N, 1), np.int64)], axis=1)
        emitted[np.arange(N), num_accepted] = next_ids
        found = {}
        for place in range(self.k + 1):
            has_place = num_accepted >= place
            cell_of = rows[has_place, place] * V + emitted[has_place, place]
            counts = np.bincount(cell_of, minlength=len(self.prefixes) * V).reshape(-1, V)
            expected = counts.sum(axis=1, keepdims=True) * self.exact
            assert counts[expected == 0].sum() == 0, "a token that the parameters rule out"
            several = (expected > 0).sum(axis=1) > 1
            enough = several & (np.where(expected > 0, expected, np.inf).min(axis=1) >= 5)
            if enough.any():
                found[f"k = {self.k}, place {place}"] = goodness_p(counts[enough], expected[enough])
        return found


def _more_of(name: str, ids: list[int]) -> list[int]:
    """The tokens on which the distribution after a prefix depends, besides the last one."""
    match name:
        case "penalties":
            return sorted(ids)
        case "dry":
            return ids
        case "bans":
            return ids[-2:]
        case "xtc":
            return [len(ids)]
    return []


def _only(row: np.ndarray, survivors: set[int], other: float = 0.0) -> np.ndarray:
    return np.where(np.isin(np.arange(V), list(survivors)), row, other)


PValues = dict[str, float]


def _verify_sampled(case: Case, *, leniency: float = 1.0, q: torch.Tensor | None = None) -> PValues:
    rng = np.random.default_rng(case.k)
    drafts = case.draw_drafts(rng)
    rows = torch.from_numpy(case.rows_along(drafts))
    num_accepted, next_ids = verify(
        case.p[rows.reshape(-1)],
        (case.q if q is None else q)[rows[:, :-1].reshape(-1)],
        torch.from_numpy(drafts.reshape(-1)),
        torch.full((N,), case.k),
        accept_uniforms=torch.from_numpy(rng.random(N * case.k)) * leniency,
        sample_uniforms=torch.from_numpy(rng.random(N * (case.k + 1))),
    )
    return case.p_values(drafts, num_accepted.numpy(), next_ids.numpy())


def _verify_drawn(case: Case, *, redraws: bool = False) -> PValues:
    """Greedy drafts. `redraws`: the wrong rule, a fresh draw after a rejection."""
    rng = np.random.default_rng(case.k)
    drafts = case.best_drafts()
    p = case.p[torch.from_numpy(case.rows_along(drafts[:1])[0])]  # [k + 1, V]
    drawn = np.stack([draw(row.expand(N, V), torch.from_numpy(rng.random(N))).numpy() for row in p], axis=1)
    _, examples, outcome_of = np.unique(case.rows_along(drawn)[:, -1], return_index=True, return_inverse=True)
    accepted = [agreeing_prefix(drafts[0].tolist(), ids) for ids in drawn[examples].tolist()]
    num_accepted = np.array(accepted)[outcome_of]
    if redraws:
        drawn = np.stack([draw(row.expand(N, V), torch.from_numpy(rng.random(N))).numpy() for row in p], axis=1)
    return case.p_values(drafts, num_accepted, drawn[np.arange(N), num_accepted])


@pytest.fixture(scope="module")
def family() -> PValues:
    """p-values of every kind of draft, length, sampling step and position, judged together."""
    return {
        f"{verified.__name__}, {name}, {test}": p
        for verified in (_verify_sampled, _verify_drawn)
        for name in PARAMETERS
        for k in (1, 3, 5)
        for test, p in verified(Case(name, k)).items()
    }


def test_sampled_and_greedy_drafts_preserve_the_distribution(family: PValues) -> None:
    assert len(family) > 2 * len(PARAMETERS) * (2 + 3 + 3)
    assert significant(family) == []


def _is_found(control: PValues, family: PValues) -> bool:
    """Among all tests that find nothing."""
    return any(name in control for name in significant(family | control))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_control_acceptance_three_percent_too_lenient_is_found(family: PValues, k: int) -> None:
    assert _is_found(_verify_sampled(Case("plain", k), leniency=0.97), family)


def test_control_verification_against_another_q_is_found(family: PValues) -> None:
    case = Case("plain", 3)
    flatter = case.q**0.9
    assert _is_found(_verify_sampled(case, q=flatter / flatter.sum(dim=-1, keepdim=True)), family)


def test_control_a_fresh_draw_after_a_rejection_is_found(family: PValues) -> None:
    assert _is_found(_verify_drawn(Case("plain", 3), redraws=True), family)


def test_drafts_of_different_lengths_are_verified_side_by_side() -> None:
    """Certain acceptance and certain rejection, so that the outcome is known."""
    one_hot = torch.eye(V)
    num_accepted, next_ids = verify(
        one_hot[[0, 1, 2, 4, 0, 3, 1]],  # drafts of 2, 0 and 3 tokens: rows 0-2, 3, 4-6 and one more
        torch.stack([one_hot[0], one_hot[1], one_hot[2], one_hot[3]]),
        torch.tensor([0, 1, 2, 3]),
        torch.tensor([2, 0, 2]),
        accept_uniforms=torch.full((4,), 0.5, dtype=torch.float64),
        sample_uniforms=torch.full((7,), 0.5, dtype=torch.float64),
    )
    assert num_accepted.tolist() == [2, 0, 0]
    assert next_ids.tolist() == [2, 4, 0]


def test_equal_distributions_accept_everything() -> None:
    p = torch.softmax(torch.randn(4, V, generator=torch.Generator().manual_seed(0)), dim=-1)
    num_accepted, _ = verify(
        p,
        p[:3],
        torch.tensor([0, 3, 2]),
        torch.tensor([3]),
        accept_uniforms=torch.full((3,), 0.999999, dtype=torch.float64),
        sample_uniforms=torch.rand(4, dtype=torch.float64),
    )
    assert num_accepted.tolist() == [3]


def test_a_draft_without_a_distribution_preserves_the_distribution() -> None:
    """q is NaN: everything is drawn from p."""
    case = Case("plain", 1)
    rng = np.random.default_rng(0)
    drafts = np.ones((N, 1), np.int64)
    p = case.p[torch.from_numpy(case.rows_along(drafts).reshape(-1))]
    q = torch.full((N, V), torch.nan)
    uniforms = torch.from_numpy(rng.random(3 * N))
    num_accepted, next_ids = verify(
        p,
        q,
        torch.from_numpy(drafts[:, 0]),
        torch.ones(N, dtype=torch.int64),
        accept_uniforms=uniforms[:N],
        sample_uniforms=uniforms[N:],
    )
    assert not num_accepted.any()
    assert significant(case.p_values(drafts, num_accepted.numpy(), next_ids.numpy())) == []
