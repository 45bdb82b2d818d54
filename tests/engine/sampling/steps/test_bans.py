"""bad_words and allowed_token_ids: what they rule out, together with other steps, and what if nothing is left."""

import math

import pytest
import torch

from engine.protocol import EngineRequest, SamplingParams
from engine.protocol.sampling_params import DryParams
from engine.sampling.sampler import Sampler
from engine.sampling.steps.bad_words import BadWords
from engine.scheduling.plan import RowResult
from engine.scheduling.sequence import Sequence
from tests.helpers.grammars import sequence_grammar
from tests.helpers.ledger import VOCAB_SIZE
from tests.helpers.logits_rows import rows_of

EOS = 9


def _sequence(
    prompt: list[int],
    output: list[int] | None = None,
    *,
    name: str = "a",
    draft: list[int] | None = None,
    **sampling: object,
) -> Sequence:
    params = SamplingParams(max_tokens=50, **{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    request = EngineRequest(id=name, prompt_ids=prompt, sampling=params, arrival_s=0.0)
    tokens = [*prompt, *(output or [])]
    return Sequence(request=request, seed=1, tokens=tokens, num_prompt=len(prompt), draft=draft or [])


def _logits(*best: int, vocab_size: int = 10) -> torch.Tensor:
    """Rows that prefer these tokens, and after them tokens with low ids."""
    logits = torch.zeros(len(best), vocab_size) - torch.arange(vocab_size) / 10
    logits[range(len(best)), list(best)] = 5.0
    return logits


def _sample(logits: torch.Tensor, *sequences: Sequence) -> list[RowResult]:
    return Sampler([EOS]).sample(logits, rows_of(*sequences))


def test_a_word_of_one_token_is_never_sampled() -> None:
    assert _sample(_logits(3), _sequence([1], bad_words=((3,), (0,))))[0].token_ids == [1]


def test_the_last_token_of_a_word_is_banned_after_the_others() -> None:
    words = ((4, 5, 3), (7, 3))
    for output, expected in [([], 3), ([4], 3), ([4, 5], 0), ([2, 4, 5], 0), ([5], 3), ([4, 5, 2], 3), ([7], 0)]:
        assert _sample(_logits(3), _sequence([1], output, bad_words=words))[0].token_ids == [expected], output


def test_the_prompt_is_no_part_of_a_word() -> None:
    assert _sample(_logits(3), _sequence([4, 5], bad_words=((4, 5, 3),)))[0].token_ids == [3]
    assert _sample(_logits(3), _sequence([4], [5], bad_words=((4, 5, 3),)))[0].token_ids == [3]


def test_drafted_tokens_count_as_part_of_a_word() -> None:
    sequence = _sequence([1], [4], bad_words=((4, 5, 3),), draft=[5, 3])
    assert _sample(_logits(5, 3, 3), sequence)[0].token_ids == [5, 0]


def test_words_that_share_an_end_are_all_found() -> None:
    words = ((4, 1), (3, 4, 2), (2, 3, 4, 5), (9, 3, 4, 6), (4, 4, 7))
    (row,) = rows_of(_sequence([1], [2, 3, 4], bad_words=words))
    assert sorted(BadWords(words).banned_ids(row)) == [1, 2, 5]


def test_only_allowed_tokens_are_sampled() -> None:
    assert _sample(_logits(3), _sequence([1], allowed_token_ids=(7, 5)))[0].token_ids == [5]
    drawn = [
        _sample(torch.zeros(1, 10), _sequence([1], allowed_token_ids=(7, 5), temperature=1.0, name=str(n)))[0]
        for n in range(20)
    ]
    assert {token_id for result in drawn for token_id in result.token_ids} <= {5, 7}


def test_a_bias_cannot_bring_back_what_is_ruled_out() -> None:
    sequence = _sequence([1], allowed_token_ids=(7, 5), bad_words=((5,),), logit_bias={3: 100.0, 5: 100.0})
    assert _sample(_logits(3), sequence)[0].token_ids == [7]


def test_dry_changes_the_choice_of_a_greedy_request() -> None:
    sequence = _sequence([1, 2, 3, 4, 1, 2, 3], dry=DryParams(multiplier=100.0))
    assert _sample(_logits(4), sequence)[0].token_ids == [0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("sampling", "param", "names"),
    [
        ({"allowed_token_ids": (5,), "bad_words": ((5,),)}, "allowed_token_ids", "allowed_token_ids and bad_words"),
        ({"bad_words": tuple((n,) for n in range(10))}, "bad_words", "bad_words"),
        ({"allowed_token_ids": (EOS,), "min_tokens": 2}, "allowed_token_ids", "allowed_token_ids and min_tokens"),
    ],
)
def test_a_sequence_without_a_token_left_is_refused_and_no_other(
    temperature: float, sampling: dict[str, object], param: str, names: str
) -> None:
    results = _sample(
        _logits(3, 4, 6),
        _sequence([1]),
        _sequence([1], name="b", temperature=temperature, **sampling),
        _sequence([1], name="c"),
    )
    assert [result.token_ids for result in results] == [[3], [], [6]]
    assert results[1].error is not None
    assert f"at token 1 of the output no token is left: {names} rule out" in results[1].error
    assert results[1].refused_param == param


def test_a_row_without_a_token_left_behind_a_rejected_draft_is_not_needed() -> None:
    sampling = {"bad_words": ((5, 3), (5, 0)), "allowed_token_ids": (0, 3, 5, 6)}
    rejected = _sequence([1], draft=[5, 6], **sampling)
    sequence = _sequence([1], draft=[5, 6], name="b", bad_words=((5, 6),), allowed_token_ids=(5, 6))
    results = _sample(_logits(3, 4, 6, 5, 5, 3), rejected, sequence)
    assert results[0].token_ids == [3]
    assert results[1].token_ids == [5, 5]
    banned = _sequence([1], [4], draft=[5, 6], bad_words=((4, 5, 6), (4, 5, 5)), allowed_token_ids=(5, 6))
    (result,) = _sample(_logits(5, 5, 3), banned)
    assert result.error is not None
    assert "at token 3 of the output no token is left" in result.error


def test_a_grammar_and_a_ban_can_leave_nothing() -> None:
    grammar = sequence_grammar('{"grammars": [{"lark_grammar": "start: \\"a\\""}]}')
    sequence = _sequence([1], bad_words=tuple((n,) for n in range(VOCAB_SIZE)))
    sequence.grammar = grammar
    (result,) = _sample(torch.zeros(1, VOCAB_SIZE), sequence)
    assert result.error is not None
    assert "bad_words and the grammar rule out" in result.error


def test_logprobs_of_a_restricted_row_are_those_of_the_model() -> None:
    logits = _logits(3)
    raw = float(torch.log_softmax(logits, dim=-1)[0, 7])
    (result,) = _sample(logits, _sequence([1], allowed_token_ids=(7,), logprobs=1))
    assert result.logprobs is not None
    assert result.logprobs[0].logprob == pytest.approx(raw)
    assert result.logprobs[0].top[0][0] == 3
    assert math.isfinite(result.logprobs[0].top[0][1])
