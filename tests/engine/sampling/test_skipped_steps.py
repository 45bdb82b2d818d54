"""Rows that do not use a step do not pay for it: none of its code runs for them."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from engine.protocol import EngineRequest, SamplingParams
from engine.protocol.sampling_params import DryParams, MirostatParams, XtcParams
from engine.sampling.sampler import Sampler
from engine.scheduling.sequence import Sequence
from tests.helpers.calls import num_calls
from tests.helpers.logits_rows import rows_of

STEPS: dict[str, dict[str, Any]] = {
    "top_n_sigma": {"top_n_sigma": 1.0},
    "typical": {"typical_p": 0.9},
    "xtc": {"xtc": XtcParams(probability=1.0)},
    "mirostat": {"mirostat": MirostatParams(version=2)},
    "dry": {"dry": DryParams(multiplier=1.0)},
    "bad_words": {"bad_words": ((1, 2),)},
    "allowed_tokens": {"allowed_token_ids": (1, 2, 3)},
}


def _sequences(num: int, **sampling: Any) -> list[Sequence]:
    params = SamplingParams(max_tokens=50, **sampling)
    requests = [EngineRequest(id=str(n), prompt_ids=[1], sampling=params, arrival_s=0.0) for n in range(num)]
    return [Sequence(request=request, seed=n, tokens=[1], num_prompt=1) for n, request in enumerate(requests)]


def _num_calls(sequences: list[Sequence]) -> int:
    """Calls of a step after the first one, which makes states."""
    sampler = Sampler([])
    sampler.sample(torch.zeros(len(sequences), 50), rows_of(*sequences))
    logits = torch.zeros(len(sequences), 50)
    return num_calls(lambda: sampler.sample(logits, rows_of(*sequences)))


def test_a_plain_row_makes_few_calls() -> None:
    few, many = 8, 32
    assert (_num_calls(_sequences(many)) - _num_calls(_sequences(few))) / (many - few) < 26


def _calls_per_plain_row(others: Callable[[], list[Sequence]]) -> float:
    few, many = 8, 32
    calls = [_num_calls([*others(), *_sequences(num)]) for num in (few, many)]
    return (calls[1] - calls[0]) / (many - few)


@pytest.fixture(scope="module")
def calls_among_its_like() -> float:
    return _calls_per_plain_row(list)


@pytest.mark.parametrize("step", STEPS)
def test_rows_beside_one_that_uses_a_step_do_not_enter_it(step: str, calls_among_its_like: float) -> None:
    """A plain row costs the same beside such a row as among plain rows."""

    def using() -> list[Sequence]:
        (sequence,) = _sequences(1, **STEPS[step])
        sequence.request = msgspec.structs.replace(sequence.request, id="using")
        return [sequence]

    assert _calls_per_plain_row(using) <= calls_among_its_like + 2
