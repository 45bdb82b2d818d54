"""Mirostat: its truncation and its limit against plain definitions, and the same tokens however they were drafted."""

import numpy as np
import pytest
import torch

from engine.protocol import EngineRequest, SamplingParams
from engine.protocol.sampling_params import MirostatParams
from engine.sampling.draw import uniform
from engine.sampling.sampler import Sampler
from engine.scheduling.sequence import Sequence
from tests.helpers.logits_rows import rows_of
from tests.helpers.sampling_references import mirostat_surprise, mirostat_survivors, softmax

V = 400
VERSIONS = [1, 2]


def _sequence(version: int, *, seed: int = 1, name: str = "a", **params: float) -> Sequence:
    mirostat = MirostatParams(version=version, **{"tau": 3.0, "eta": 0.3, **params})  # type: ignore[arg-type]
    sampling = SamplingParams(max_tokens=200, temperature=1.2, mirostat=mirostat)
    request = EngineRequest(id=name, prompt_ids=[1], sampling=sampling, arrival_s=0.0)
    return Sequence(request=request, seed=seed, tokens=[1], num_prompt=1)


def _logits(num_rows: int, scale: float = 3.0, *, seed: int = 0) -> torch.Tensor:
    """Rows with a few likely tokens, as language models have them."""
    return torch.randn(num_rows, V, generator=torch.Generator().manual_seed(seed)) * scale


def _reference(logits: torch.Tensor, sequence: Sequence, forced: dict[int, int] | None = None) -> list[int]:
    """The tokens of rows that follow one another, and of `forced` ones, which have no row."""
    params = sequence.request.sampling.mirostat
    assert params is not None
    mu, output = 2 * params.tau, list[int]()
    for row in logits:
        while len(output) in (forced or {}):
            output.append((forced or {})[len(output)])
            mu += params.eta * params.tau
        probs = softmax(row.double().numpy() / 1.2)
        survivors = sorted(mirostat_survivors(probs, params.version, mu))
        weights = np.cumsum(probs[survivors])
        number = uniform(sequence.seed, 1 + len(output))
        token_id = survivors[int(np.searchsorted(weights, number * weights[-1], side="right"))]
        output.append(token_id)
        mu -= params.eta * (mirostat_surprise(probs, survivors, token_id, params.version) - params.tau)
    return output


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_tokens_are_those_of_the_definition(version: int, scale: float) -> None:
    logits = _logits(60, scale)
    sampler, sequence = Sampler([]), _sequence(version)
    for row in logits:
        sequence.tokens += sampler.sample(row[None].clone(), rows_of(sequence))[0].token_ids
    assert sequence.tokens[1:] == _reference(logits, sequence)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sequence_with_drafts_has_the_tokens_of_one_without(version: int) -> None:
    """The rows of a draft are those after its tokens; others' rows are in the batch, too."""
    logits = _logits(60)
    expected = _reference(logits, _sequence(version))
    sampler, sequence, other = Sampler([]), _sequence(version), _sequence(version, name="b", seed=5)
    num_accepted = 0
    while sequence.num_output < 50:
        place = sequence.num_output
        sequence.draft = expected[place : place + place % 4] + [7] * (place % 3)
        rows = logits[place : place + len(sequence.draft) + 1]
        mate = logits[other.num_output : other.num_output + 1]
        results = sampler.sample(torch.cat([mate, rows]), rows_of(other, sequence))
        num_accepted += len(results[1].token_ids) - 1
        sequence.tokens += results[1].token_ids
        other.tokens += results[0].token_ids
    assert num_accepted > 20
    assert sequence.tokens[1:51] == expected[:50]
    assert other.tokens[1:] == _reference(logits[: other.num_output], other)


@pytest.mark.parametrize("version", VERSIONS)
def test_tokens_that_were_dropped_or_forced_are_accounted_for(version: int) -> None:
    logits = _logits(20)
    sampler, sequence = Sampler([]), _sequence(version)
    forced = {4: 9, 5: 11, 12: 13}
    for row in logits:
        while sequence.num_output in forced:
            sequence.tokens.append(forced[sequence.num_output])
        sampler.sample(row[None].clone(), rows_of(sequence))  # a result that is dropped
        sequence.tokens += sampler.sample(row[None].clone(), rows_of(sequence))[0].token_ids
    assert sequence.tokens[1:] == _reference(logits, sequence, forced)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tau", [2.0, 3.0])
def test_the_surprise_of_a_text_comes_to_the_target(version: int, tau: float) -> None:
    """The rows follow Zipf's law with several exponents, and without mirostat the surprise would be another."""
    generator = torch.Generator().manual_seed(0)
    sampler, sequence = Sampler([]), _sequence(version, tau=tau, eta=0.2)
    surprises, unlimited = [], []
    for number in range(400):
        ranks = torch.randperm(V, generator=generator) + 1.0
        logits = -(1.4 + 0.1 * (number % 5)) * ranks.log()
        (token_id,) = sampler.sample(logits[None].clone(), rows_of(sequence))[0].token_ids
        sequence.tokens.append(token_id)
        probs = softmax(logits.double().numpy() / 1.2)
        mu = sampler._mirostat._mus["a"][-2]
        surprises.append(mirostat_surprise(probs, mirostat_survivors(probs, version, mu), token_id, version))
        unlimited.append(-(probs * np.log2(probs)).sum())
    assert np.mean(surprises[50:]) == pytest.approx(tau, abs=0.15)
    assert np.mean(unlimited) > tau + 0.5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_left", [1, 2, V])
def test_rows_of_one_token_or_of_equal_ones_are_sampled(version: int, num_left: int) -> None:
    logits = torch.full((3, V), -torch.inf)
    logits[:, :num_left] = 1.0
    sampler, sequence = Sampler([]), _sequence(version)
    for row in logits:
        (token_id,) = sampler.sample(row[None].clone(), rows_of(sequence))[0].token_ids
        sequence.tokens.append(token_id)
        assert 0 <= token_id < num_left


def test_a_greedy_request_does_not_notice_mirostat() -> None:
    mirostat = MirostatParams(version=2)
    request = EngineRequest(
        id="a", prompt_ids=[1], sampling=SamplingParams(max_tokens=9, temperature=0.0, mirostat=mirostat), arrival_s=0.0
    )
    sequence = Sequence(request=request, seed=0, tokens=[1], num_prompt=1)
    logits = _logits(1)
    assert Sampler([]).sample(logits.clone(), rows_of(sequence))[0].token_ids == [int(logits.argmax())]
