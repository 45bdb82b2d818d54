"""Grammars on a real model: the same tokens whether masks are computed beside the model's pass or behind it, and
whatever becomes of the pass."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.engine import Engine
from engine.grammar.compiler import GrammarCompiler
from engine.grammar.vocabulary import TokenizerSource
from engine.protocol import EngineRequest
from engine.runner.runner import TorchRunner
from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.masks_ahead import NO_MASKS
from models.loaded_model import LoadedModel
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, random_model
from tests.helpers.engines import make_request
from tests.helpers.grammars import GRAMMARS, ledger_source
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient

_LETTERS = json.dumps({"grammars": [{"lark_grammar": 'start: /[abc]{2,9}/ "true" /[a-f012]{8}/'}]})
_CHOICES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.2},
    {"temperature": 1.0, "top_k": 4},
    {"temperature": 0.0, "presence_penalty": 0.5},
    {"temperature": 1.0, "min_p": 0.02, "logprobs": 2},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("model")
    random_model(llama_config()).save_pretrained(folder)
    return load_random(folder)


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarCompiler]:
    source = TokenizerSource(ledger_source().tokenizer_json, VOCAB_SIZE, [2])
    compiler = GrammarCompiler(source, timeout_s=60, cache_bytes=1 << 20, on_compiled=lambda: None)
    yield compiler
    compiler.close()


def _requests() -> list[EngineRequest]:
    cases = [(grammar, fields) for grammar in (GRAMMARS[1], GRAMMARS[3], _LETTERS) for fields in _CHOICES]
    return [
        make_request(f"r{number}", [5, 6, 7, number % 30], max_tokens=16, seed=number, grammar=grammar, **fields)
        for number, (grammar, fields) in enumerate(cases)
    ]


def _client(model: LoadedModel, grammars: GrammarCompiler, num_blocks: int = 200) -> LocalClient:
    config = EngineConfig(block_size=4, max_model_len=64, max_num_batched_tokens=256, check_invariants=True)
    runner = TorchRunner(model, num_blocks=num_blocks, block_size=4)
    engine = Engine(config, runner, num_blocks=num_blocks, eos_token_ids=[2], grammars=grammars)
    return LocalClient(engine)


def _texts(client: LocalClient) -> dict[str, list[int]]:
    return {id: output.new_ids for id, output in client.generate(_requests()).items()}


@pytest.fixture(scope="module")
def expected(model: LoadedModel, grammars: GrammarCompiler) -> dict[str, list[int]]:
    """By masks behind the pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrammarMasks, "start", lambda *_, **__: NO_MASKS)
        return _texts(_client(model, grammars))


def test_tokens_are_those_of_masks_behind_the_pass_also_where_sequences_are_preempted(
    model: LoadedModel, grammars: GrammarCompiler, expected: dict[str, list[int]]
) -> None:
    client = _client(model, grammars, num_blocks=24)
    assert _texts(client) == expected
    assert sum(step.preemptions for step in client.steps) > 0


def test_a_pass_that_fails_leaves_the_grammars_as_they_were(
    model: LoadedModel, grammars: GrammarCompiler, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine computes each sequence of such a step again, alone."""
    num_passes = num_failed = 0
    logits = model.decoder.logits

    def fail_now_and_then(hidden: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        nonlocal num_passes, num_failed
        if len(hidden) > 1:
            num_passes += 1
            if num_passes % 5 == 0:
                num_failed += 1
                raise RuntimeError("the pass fails")
        return logits(hidden, adapter_slots)

    monkeypatch.setattr(model.decoder, "logits", fail_now_and_then)
    assert _texts(_client(model, grammars)) == expected
    assert num_failed > 0
