"""Sampler: each step of the pipeline, and rows that do not influence each other."""

import math

import pytest
import torch

from engine.protocol import EngineRequest, SamplingParams
from engine.sampling.sampler import Sampler
from engine.scheduling.sequence import Sequence
from tests.helpers.logits_rows import rows_of

EOS = 9


def _sequence(
    prompt: list[int], output: list[int] | None = None, *, name: str = "a", seed: int = 1, **sampling: object
) -> Sequence:
    params = SamplingParams(max_tokens=50, **{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    request = EngineRequest(id=name, prompt_ids=prompt, sampling=params, arrival_s=0.0)
    return Sequence(request=request, seed=seed, tokens=[*prompt, *(output or [])], num_prompt=len(prompt))


def _logits(*rows: dict[int, float], vocab_size: int = 10) -> torch.Tensor:
    logits = torch.zeros(len(rows), vocab_size)
    for row, values in enumerate(rows):
        for token_id, value in values.items():
            logits[row, token_id] = value
    return logits


def _sample(logits: torch.Tensor, *sequences: Sequence) -> list[int]:
    return [sampled.token_ids[-1] for sampled in Sampler([EOS]).sample(logits, rows_of(*sequences))]


def test_greedy_takes_the_largest_logit() -> None:
    assert _sample(_logits({3: 2.0}, {7: 1.0}), _sequence([1]), _sequence([1], name="b")) == [3, 7]


def test_logit_bias_moves_the_choice() -> None:
    assert _sample(_logits({3: 2.0, 4: 1.0}), _sequence([1], logit_bias={4: 5.0})) == [4]


def test_repetition_penalty_covers_prompt_and_output() -> None:
    logits = {2: 3.0, 5: 2.9, 6: 1.6}
    assert _sample(_logits(logits), _sequence([2], [5], repetition_penalty=2.0)) == [6]


def test_repetition_penalty_pushes_negative_logits_down() -> None:
    logits = torch.full((1, 10), -4.0)
    logits[0, 2], logits[0, 3] = -1.0, -1.5
    assert _sample(logits, _sequence([2], repetition_penalty=2.0)) == [3]


def test_presence_penalty_covers_the_output_only() -> None:
    assert _sample(_logits({2: 1.0}), _sequence([2], presence_penalty=2.0)) == [2]
    assert _sample(_logits({2: 1.0, 3: 0.5}), _sequence([1], [2], presence_penalty=1.0)) == [3]


def test_frequency_penalty_grows_with_each_occurrence() -> None:
    logits = {2: 1.0, 3: 0.5}
    assert _sample(_logits(logits), _sequence([1], [2], frequency_penalty=0.3)) == [2]
    assert _sample(_logits(logits), _sequence([1], [2, 2], frequency_penalty=0.3)) == [3]


def test_penalty_counts_follow_a_growing_sequence() -> None:
    sampler = Sampler([EOS])
    sequence = _sequence([1], frequency_penalty=0.3)
    chosen = []
    for _ in range(3):
        (token_id,) = sampler.sample(_logits({2: 1.0, 3: 0.5}), rows_of(sequence))[0].token_ids
        sequence.tokens.append(token_id)
        chosen.append(token_id)
    assert chosen == [2, 2, 3]


def test_min_tokens_bans_eos_and_stop_ids_until_reached() -> None:
    logits = {EOS: 5.0, 4: 4.0, 2: 3.0}
    assert _sample(_logits(logits), _sequence([1], [7], min_tokens=2, stop_token_ids=(4,))) == [2]
    assert _sample(_logits(logits), _sequence([1], [7, 7], min_tokens=2, stop_token_ids=(4,))) == [EOS]
    assert _sample(_logits(logits), _sequence([1], [7], min_tokens=2, ignore_eos=True)) == [EOS]


def test_sampling_is_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 1000)
    sequences = [
        _sequence([1], name="a", seed=11, temperature=1.0),
        _sequence([1, 2], name="b", seed=12, temperature=0.7, top_p=0.9),
        _sequence([1, 2, 3], name="c", seed=13, temperature=1.3, top_k=40),
    ]
    together = _sample(logits.clone(), *sequences)
    alone = [_sample(logits[row : row + 1].clone(), sequence)[0] for row, sequence in enumerate(sequences)]
    assert together == alone


@pytest.mark.parametrize("limits", [{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}])
def test_samples_follow_the_distribution(limits: dict[str, float]) -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0, -1.0, -2.0]])
    draws = 4000
    sequences = [_sequence([1], seed=seed, temperature=0.8, **limits) for seed in range(draws)]
    counts = torch.bincount(torch.tensor(_sample(logits.expand(draws, 5).clone(), *sequences)), minlength=5)
    p = torch.softmax(logits[0] / 0.8, dim=-1)
    num_survivors = {"top_k": 3, "top_p": 3, "min_p": 3}.get(next(iter(limits), ""), 5)
    expected = draws * torch.where(torch.arange(5) < num_survivors, p, 0.0) / p[:num_survivors].sum()
    assert counts[num_survivors:].sum() == 0
    chi_square = float(((counts - expected)[:num_survivors] ** 2 / expected[:num_survivors]).sum())
    assert chi_square < 18.5  # at most 4 degrees of freedom, 0.1 %


def test_logprobs_come_from_raw_logits() -> None:
    logits = _logits({3: 2.0, 4: 1.0})
    raw = torch.log_softmax(logits, dim=-1)[0]
    row = Sampler([EOS]).sample(logits.clone(), rows_of(_sequence([1], logit_bias={4: 50.0}, logprobs=2)))[0]
    assert row.token_ids == [4]
    assert row.logprobs is not None
    assert row.logprobs[0].logprob == pytest.approx(float(raw[4]), abs=1e-5)
    assert [token_id for token_id, _ in row.logprobs[0].top] == [3, 4]


def test_logprobs_are_finite_where_the_model_rules_a_token_out() -> None:
    logits = _logits({3: 2.0})
    logits[0, 5] = -math.inf
    row = Sampler([EOS]).sample(logits, rows_of(_sequence([1], logit_bias={}, logprobs=10)))[0]
    assert row.logprobs is not None
    assert all(math.isfinite(logprob) for _, logprob in row.logprobs[0].top)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_fails_alone(bad: float) -> None:
    logits = _logits({3: 2.0}, {4: bad}, {5: 2.0})
    rows = Sampler([EOS]).sample(logits, rows_of(*(_sequence([1], name=name) for name in "abc")))
    assert [row.token_ids for row in rows if row.error is None] == [[3], [5]]
    assert rows[1].error is not None


# --- drafts ---------------------------------------------------------------------------------------------------------


def _drafted(sequence: Sequence, *draft: int) -> Sequence:
    sequence.draft = list(draft)
    return sequence


def _results(logits: torch.Tensor, *sequences: Sequence) -> list[list[int]]:
    return [sampled.token_ids for sampled in Sampler([EOS]).sample(logits, rows_of(*sequences))]


def test_a_draft_is_accepted_up_to_the_first_wrong_token_and_one_more_follows() -> None:
    logits = _logits({3: 2.0}, {4: 2.0}, {5: 2.0}, {6: 2.0})
    assert _results(logits.clone(), _drafted(_sequence([1]), 3, 4, 5)) == [[3, 4, 5, 6]]
    assert _results(logits.clone(), _drafted(_sequence([1]), 3, 7, 5)) == [[3, 4]]
    assert _results(logits.clone(), _drafted(_sequence([1]), 7, 4, 5)) == [[3]]


def test_sequences_with_and_without_drafts_share_a_batch() -> None:
    logits = _logits({3: 2.0}, {4: 2.0}, {5: 2.0}, {6: 2.0})
    sequences = [_sequence([1]), _drafted(_sequence([1], name="b"), 4), _sequence([1], name="c")]
    assert _results(logits, *sequences) == [[3], [4, 5], [6]]


def test_penalties_count_the_draft_tokens_before_each_row() -> None:
    logits = _logits({2: 1.0, 3: 0.5}, {2: 1.0, 3: 0.5}, {2: 1.0, 3: 0.5})
    sequence = _drafted(_sequence([1], frequency_penalty=0.3), 2, 2)
    assert _results(logits, sequence) == [[2, 2, 3]]  # as in test_penalty_counts_follow_a_growing_sequence


def test_min_tokens_counts_the_draft_tokens_before_each_row() -> None:
    logits = _logits({EOS: 5.0, 2: 3.0}, {EOS: 5.0, 2: 3.0}, {EOS: 5.0, 2: 3.0})
    assert _results(logits, _drafted(_sequence([1], min_tokens=2), 2, 2)) == [[2, 2, EOS]]


def test_a_deterministic_draft_gives_the_output_of_decoding_without_it() -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(50):
        logits = torch.randn(4, 10, generator=generator)
        plain = _sequence([1], seed=seed, temperature=1.0, top_p=0.9, presence_penalty=0.5)
        for row in logits:
            plain.tokens += _results(row[None].clone(), plain)[0]
        drafted = _drafted(_sequence([1], seed=seed, temperature=1.0, top_p=0.9, presence_penalty=0.5), 3, 4, 5)
        (token_ids,) = _results(logits.clone(), drafted)
        assert token_ids == plain.tokens[1 : 1 + len(token_ids)]


def test_logprobs_come_with_each_emitted_token_of_a_draft() -> None:
    logits = _logits({3: 2.0}, {4: 2.0}, {5: 2.0}, {6: 2.0})
    raw = torch.log_softmax(logits, dim=-1)
    sequences = [_drafted(_sequence([1], logprobs=1), 3, 7), _sequence([1], name="b", logprobs=0)]
    first, second = Sampler([EOS]).sample(logits, rows_of(*sequences))
    assert first.logprobs is not None
    assert second.logprobs is not None
    assert [entry.token_id for entry in (*first.logprobs, *second.logprobs)] == [3, 4, 6]
    expected = [float(raw[0, 3]), float(raw[1, 4]), float(raw[3, 6])]
    assert [entry.logprob for entry in (*first.logprobs, *second.logprobs)] == pytest.approx(expected)


def test_requested_tokens_are_scored_at_each_emitted_token_of_a_draft() -> None:
    logits = _logits({3: 2.0}, {4: 2.0}, {5: 2.0}, {6: 2.0})
    raw = torch.log_softmax(logits, dim=-1)
    asking = _sequence([1], logprobs=1, logprob_token_ids=(6, 4))
    first, second = Sampler([EOS]).sample(logits, rows_of(_drafted(asking, 3, 7), _sequence([1], name="b", logprobs=1)))
    assert first.logprobs is not None
    assert second.logprobs is not None
    assert [entry.top for entry in first.logprobs] == [
        [(6, pytest.approx(float(raw[row, 6]))), (4, pytest.approx(float(raw[row, 4])))] for row in (0, 1)
    ]
    assert [token_id for token_id, _ in second.logprobs[0].top] == [6]


def test_a_broken_row_of_a_draft_fails_its_sequence_alone() -> None:
    logits = _logits({3: 2.0}, {4: 2.0}, {5: math.nan}, {6: 2.0})
    rows = Sampler([EOS]).sample(logits, rows_of(_drafted(_sequence([1]), 3, 4), _sequence([1], name="b")))
    assert rows[0].error is not None
    assert rows[1].token_ids == [6]


def test_a_broken_row_after_a_rejection_fails_nobody() -> None:
    logits = _logits({3: 2.0}, {4: 2.0}, {5: math.nan}, {6: 2.0})
    rows = Sampler([EOS]).sample(logits, rows_of(_drafted(_sequence([1], logprobs=0), 3, 7), _sequence([1], name="b")))
    assert [row.token_ids for row in rows] == [[3, 4], [6]]
    assert rows[0].logprobs is not None
    assert [entry.token_id for entry in rows[0].logprobs] == [3, 4]


def test_a_sampled_draft_is_verified_against_its_distribution() -> None:
    """Where p equals q everything is accepted, and what p excludes never is."""
    logits = _logits({3: 2.0}, {4: 2.0}, {5: 9.0})
    sequence = _drafted(_sequence([1], temperature=1.0), 0, 4)
    q = torch.softmax(logits[:2], dim=-1)
    sampled = Sampler([EOS]).sample(logits.clone(), rows_of(sequence), {"a": q})
    assert sampled[0].token_ids[:2] == [0, 4]
    logits[0, 0] = -math.inf
    for seed in range(20):
        sequence.seed = seed
        assert Sampler([EOS]).sample(logits.clone(), rows_of(sequence), {"a": q})[0].token_ids[0] != 0
