"""BeamSearch against transformers' beam search, over the same model."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from engine.protocol import TokenLogprobs
from server.generation.beams.search import BeamOptions, BeamSearch, EarlyStopping
from tests.helpers.checkpoints import llama_config, random_model

PROMPT = [1, 5, 9, 13, 7]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model(llama_config(vocab_size=24), seed=3)


def _search(model: PreTrainedModel, search: BeamSearch) -> None:
    while not search.is_over:
        rows = [PROMPT + [token.token_id for token in beam.tokens] for beam in search.running]
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor(rows)).logits[:, -1].float(), dim=-1)
        values, ids = logprobs.topk(min(search.num_continuations, logprobs.shape[-1]), dim=-1)
        search.advance(
            [
                [TokenLogprobs(token_id, value, []) for token_id, value in zip(*row, strict=True)]
                for row in zip(ids.tolist(), values.tolist(), strict=True)
            ]
        )


def _expected(model: PreTrainedModel, ends: list[int], **options: Any) -> tuple[list[list[int]], list[float]]:
    found = model.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT)),
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    rows = []
    for row in found.sequences[:, len(PROMPT) :].tolist():
        end = next((index for index, token_id in enumerate(row) if token_id in ends), len(row) - 1)
        rows.append(row[: end + 1])
    return rows, found.sequences_scores.tolist()


CASES = [(3, [2], penalty, early) for penalty in (1.0, 2.0, -1.0) for early in EarlyStopping] + [
    (4, [2, 7, 11], 0.0, EarlyStopping.WHEN_FULL),
    (4, [2, 7, 11], 1.0, EarlyStopping.WHEN_HOPELESS),
    (4, [2, 7, 11], 2.0, EarlyStopping.NEVER),
    (5, [], 1.0, EarlyStopping.WHEN_HOPELESS),
]


@pytest.mark.parametrize(("width", "ends", "length_penalty", "early_stopping"), CASES)
def test_beams_are_those_of_transformers(
    model: PreTrainedModel, width: int, ends: list[int], length_penalty: float, early_stopping: EarlyStopping
) -> None:
    search = BeamSearch(BeamOptions(width, length_penalty, early_stopping), max_tokens=12, end_ids=frozenset(ends))
    _search(model, search)
    ids, scores = _expected(
        model,
        ends,
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=12,
        length_penalty=length_penalty,
        early_stopping=early_stopping.value,
    )
    assert [[token.token_id for token in each.beam.tokens] for each in search.finished] == ids
    assert [each.score for each in search.finished] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("min_tokens", [3])
def test_no_beam_ends_among_its_first_tokens(model: PreTrainedModel, min_tokens: int) -> None:
    ends = [2, 7, 11]
    search = BeamSearch(BeamOptions(4), max_tokens=12, min_tokens=min_tokens, end_ids=frozenset(ends))
    _search(model, search)
    ids, _ = _expected(model, ends, num_beams=4, num_return_sequences=4, max_new_tokens=12, min_new_tokens=min_tokens)
    assert [[token.token_id for token in each.beam.tokens] for each in search.finished] == ids


def test_the_cases_have_beams_that_end_early_and_beams_that_do_not(model: PreTrainedModel) -> None:
    search = BeamSearch(BeamOptions(4), max_tokens=12, end_ids=frozenset([2, 7, 11]))
    _search(model, search)
    assert any(each.end_id is not None for each in search.finished)
    search = BeamSearch(BeamOptions(3, 2.0, EarlyStopping.NEVER), max_tokens=12, end_ids=frozenset([2]))
    _search(model, search)
    assert any(each.end_id is None for each in search.finished)


def test_one_beam_is_greedy(model: PreTrainedModel) -> None:
    search = BeamSearch(BeamOptions(1), max_tokens=8)
    _search(model, search)
    greedy = model.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, 5), do_sample=False, eos_token_id=None, max_new_tokens=8
    )
    (best,) = search.finished
    assert [token.token_id for token in best.beam.tokens] == greedy[0, len(PROMPT) :].tolist()


def test_a_search_that_is_given_up_has_what_it_came_to() -> None:
    search = BeamSearch(BeamOptions(2), max_tokens=8)
    search.advance([[TokenLogprobs(5, -1.0, []), TokenLogprobs(6, -2.0, [])]])
    search.give_up()
    assert search.is_over
    assert [(each.beam.tokens[0].token_id, each.score, each.end_id) for each in search.finished] == [
        (5, -1.0, None),
        (6, -2.0, None),
    ]
