"""Decisions of a tiny checkpoint in fp32, against scoring every label as a part of the prompt."""

import dataclasses
import math
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest
from engine.runner.runner import TorchRunner
from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.engines import make_request
from tests.helpers.fake_client import VOCAB_SIZE, FakeClient, Step, engine_info, http, make_app
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient

BLOCK_SIZE, NUM_BLOCKS, MAX_MODEL_LEN = 16, 400, 1024
LABELS = ["a", "b", "bc", "low", "low-medium", "lowland", "twelve bytes", "Of several"]
BODY = {
    "input": "A long state, which all questions share. " * 8,
    "questions": [
        {"type": "choice", "instructions": "Which?", "choices": [{"value": label} for label in LABELS]},
        {"type": "predicate", "instructions": "It is short."},
        {"type": "score", "instructions": "How long?", "levels": [{"label": "short"}, {"label": "long"}]},
    ],
    "min_mass": 0,
}
SPELLINGS = [
    [*([label, label.swapcase()[0] + label[1:]] for label in LABELS)],
    [["yes", "Yes"], ["no", "No"]],
    [["short", "Short"], ["long", "Long"]],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    random_model(llama_config(vocab_size=VOCAB_SIZE, max_position_embeddings=MAX_MODEL_LEN)).save_pretrained(path)
    return path


def _engine(folder: Path) -> LocalClient:
    config = EngineConfig(
        block_size=BLOCK_SIZE,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=8,
        max_num_batched_tokens=100,  # the prompt comes in chunks
        check_invariants=True,
    )
    model = dataclasses.replace(load_random(folder), max_position=MAX_MODEL_LEN)
    runner = TorchRunner(model, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
    return LocalClient(Engine(config, runner, num_blocks=NUM_BLOCKS, eos_token_ids=[2]))


def _fully_scored(engine: LocalClient, prompt: list[int], label: str) -> float:
    """The label's probability behind the prompt, from log probabilities of the whole prompt without the cache."""
    ids = [*prompt, *label.encode()]
    request = make_request(f"{len(prompt)} {label}", ids, max_tokens=1, prompt_logprobs=0)
    scores = engine.generate([request])[request.id].prompt_logprobs
    assert scores is not None
    return math.exp(sum(score.logprob for score in scores[len(prompt) :] if score is not None))


def _expected(engine: LocalClient, prompt: list[int], labels: list[list[str]]) -> list[float]:
    scored = {text: _fully_scored(engine, prompt, text) for spellings in labels for text in spellings}

    def exclusive(text: str) -> float:
        longer = [each for each in scored if each.startswith(text) and each != text]
        nearest = [each for each in longer if not any(each != other and each.startswith(other) for other in longer)]
        return scored[text] - sum(scored[each] for each in nearest)

    masses = [sum(map(exclusive, spellings)) for spellings in labels]
    return [mass / sum(masses) for mass in masses]


async def test_probabilities_are_those_of_full_scoring(folder: Path) -> None:
    engine = _engine(folder)

    def script(request: EngineRequest) -> list[Step]:
        return [engine.generate([request])[request.id]]

    client = FakeClient(script, engine_info(max_model_len=MAX_MODEL_LEN))
    async with http(make_app(client)) as api:
        cold, warm = [(await api.post("/v1/decisions", json=BODY)).raise_for_status().json() for _ in range(2)]
    prompts = [request.prompt_ids for request in client.requests[:3]]
    fresh = _engine(folder)
    for index, labels in enumerate(SPELLINGS):
        expected = _expected(fresh, prompts[index], labels)
        for answer in (cold["answers"][index], warm["answers"][index]):
            if answer["type"] == "predicate":
                assert answer["probability"] == pytest.approx(expected[0], abs=1e-5)
            else:
                given = [each["probability"] for each in answer["probabilities"]]
                assert given == pytest.approx(expected, abs=1e-5)
    cached = [each["usage"]["input_tokens_details"]["cached_tokens"] for each in (cold, warm)]
    num_tokens = cold["usage"]["input_tokens"]
    assert cached[0] == 0
    assert num_tokens - len(prompts) * 2 * BLOCK_SIZE < cached[1] < num_tokens
