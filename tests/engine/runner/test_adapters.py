"""Adapters on a real model in fp32: each row of a step has its own, and tokens are the same under every schedule."""

from pathlib import Path
from typing import Any

import pytest

from engine.adapters.model_source import ModelAdapters
from engine.adapters.service import AdapterService, Answer
from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import AdapterLoaded, AdapterRef, EngineRequest, RequestOutput
from engine.runner.runner import TorchRunner
from models.loaded_model import LoadedModel
from tests.helpers.adapters import random_adapter
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, random_model
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient

NAMES = ("x", "y", "z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    model = random_model(llama_config())
    model.save_pretrained(folder / "model")
    for seed, name in enumerate(NAMES):
        random_adapter(model, seed=seed).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    model = load_random(folder / "model")
    model.decoder.enable_adapters(2, 8)
    return model


class Run:
    """An engine with two slots, which has loaded the three adapters; `refs` is by their names."""

    def __init__(self, model: LoadedModel, folder: Path, **options: Any) -> None:
        options = {"max_num_batched_tokens": 256, **options}
        config = EngineConfig(
            block_size=4, max_model_len=64, check_invariants=True, enable_lora=True, max_loras=2, **options
        )
        answers: list[Answer] = []
        service = AdapterService(
            ModelAdapters(model), max_rank=8, max_on_host=4, on_done=lambda: None, on_answer=answers.append
        )
        runner = TorchRunner(model, num_blocks=128, block_size=4)
        self.client = LocalClient(
            Engine(config, runner, num_blocks=128, num_states=0, eos_token_ids=[2], adapters=service)
        )
        for number, name in enumerate(NAMES):
            service.load(number, str(folder / name))
        self.client.generate([])
        self.refs: dict[str, AdapterRef] = {}
        for answer in answers:
            assert isinstance(answer, AdapterLoaded), answer
            name = NAMES[answer.number]
            self.refs[name] = AdapterRef(name, str(folder / name), answer.info.digest)

    def requests(self, **options: Any) -> list[EngineRequest]:
        prompt = [token % VOCAB_SIZE for token in make_prompt(13)]
        return [
            make_request(name, prompt, max_tokens=12, ignore_eos=True, adapter=self.refs.get(name), **options)
            for name in ("base", *NAMES)
        ]

    def ask(self, requests: list[EngineRequest]) -> dict[str, RequestOutput]:
        return self.client.generate(requests)


@pytest.fixture(scope="module")
def alone(model: LoadedModel, folder: Path) -> dict[str, RequestOutput]:
    """Each request's answer by an engine that has no other."""
    return {
        request.id: Run(model, folder).ask([request])[request.id]
        for request in Run(model, folder).requests(temperature=0.0, logprobs=0, prompt_logprobs=0)
    }


def test_each_adapter_says_something_of_its_own(alone: dict[str, RequestOutput]) -> None:
    assert len({tuple(output.new_ids) for output in alone.values()}) == 4


@pytest.mark.parametrize(
    "options",
    [{}, {"max_num_batched_tokens": 5, "max_num_seqs": 3}, {"max_num_seqs": 2}, {"enable_prefix_caching": False}],
    ids=str,
)
def test_rows_of_a_step_have_their_own_adapters(
    model: LoadedModel, folder: Path, alone: dict[str, RequestOutput], options: dict[str, Any]
) -> None:
    run = Run(model, folder, **options)
    together = run.ask(run.requests(temperature=0.0, logprobs=0, prompt_logprobs=0))
    for name, expected in alone.items():
        output = together[name]
        assert output.new_ids == expected.new_ids, name
        for ours, theirs in zip(_scores(output), _scores(expected), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)


def test_drafts_are_verified_by_the_adapted_model(
    model: LoadedModel, folder: Path, alone: dict[str, RequestOutput]
) -> None:
    """The prediction is what the base would say, or the adapter itself: neither changes a token."""
    run = Run(model, folder)
    for predicted in ("base", "x"):
        prediction = alone[predicted].new_ids
        requests = [
            make_request(
                name,
                [token % VOCAB_SIZE for token in make_prompt(13)],
                max_tokens=12,
                ignore_eos=True,
                temperature=0.0,
                adapter=run.refs.get(name),
                prediction_ids=prediction,
            )
            for name in ("base", "x")
        ]
        outputs = run.ask(requests)
        assert {name: outputs[name].new_ids for name in ("base", "x")} == {
            name: alone[name].new_ids for name in ("base", "x")
        }
        assert outputs[predicted].num_draft_accepted > 0


def _scores(output: RequestOutput) -> list[float]:
    prompt, own = output.prompt_logprobs, output.logprobs
    assert prompt is not None
    assert own is not None
    return [entry.logprob for entry in (*prompt, *own) if entry is not None]
