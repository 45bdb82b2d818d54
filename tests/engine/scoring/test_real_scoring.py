"""Scores of tiny checkpoints in fp32, against full scoring of each label without a cache, under every schedule."""

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PretrainedConfig

from engine.adapters.model_source import ModelAdapters
from engine.adapters.service import AdapterService, Answer
from engine.config import DraftSampling, EngineConfig
from engine.draft_model.model import DraftModel
from engine.draft_model.runner import TorchDraftRunner
from engine.engine import Engine
from engine.protocol import AdapterLoaded, AdapterRef, EngineRequest, RequestOutput, ScoredQuestion, ScoringRequest
from engine.protocol.scoring import Path as LabelPath
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import peak_blocks
from models.loaded_model import LoadedModel
from tests.helpers.adapters import random_adapter
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, mistral_config, random_model
from tests.helpers.drafting import AlwaysFull
from tests.helpers.engines import make_request
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient
from tests.models.families.deepseek_variants import deepseek_v3
from tests.models.families.recurrent_variants import qwen35

BLOCK_SIZE, MAX_MODEL_LEN = 4, 64

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "full attention": llama_config,
    "windows": mistral_config,
    "latent attention": deepseek_v3,
    "recurrent": qwen35,
}
# Modules that an adapter may change, where those are not all.
ADAPTABLE = {"latent attention": r"mlp.*_proj$|o_proj$", "recurrent": r"mlp.*_proj$|o_proj$"}
EXTRAS = ("alone", "adapter", "draft model")
TIGHT = {"max_num_batched_tokens": 16, "max_num_seqs": 12, "has_small_pool": True}  # chunks and preemptions
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((layers, extra, schedule) for layers in CONFIGS for extra in EXTRAS for schedule in ({}, TIGHT)),
    ("full attention", "alone", {"enable_prefix_caching": False}),
    ("full attention", "alone", {"block_size": 16}),  # whole tiles, which can be copied
    ("windows", "alone", {"block_size": 16}),
    ("latent attention", "alone", {"block_size": 16}),
]
_draw = random.Random(5)


def _ids(length: int) -> list[int]:
    return [_draw.randrange(3, VOCAB_SIZE) for _ in range(length)]


def _labels(lengths: list[int]) -> list[list[LabelPath]]:
    """Return labels of these lengths; each longer one begins with the one before it, and the last has two spellings."""
    labels: list[list[LabelPath]] = []
    begin: list[int] = []
    for length in lengths:
        begin = [*begin[: length // 2], *_ids(length - min(len(begin), length // 2))]
        labels.append([tuple(begin)])
    labels[-1].append(tuple(_ids(lengths[-1])))
    return labels


QUESTIONS = [
    ScoredQuestion(_ids(3), _labels([1, 1, 2])),
    ScoredQuestion(_ids(7), _labels([12, 11])),
    ScoredQuestion(_ids(5), [[(9,)], [(9, 8)], [(9, 8, 7), (6,)]]),
    ScoredQuestion(_ids(1), _labels([2, 3, 4, 5])),
]
STATE = _ids(22)
_begin = _ids(9)
QUESTIONS += [ScoredQuestion([*_begin, *_ids(number)], _labels([1, 2])) for number in (1, 3, 5)]


@dataclass
class Setup:
    """A model with what a kind of test needs beside it."""

    model: LoadedModel
    draft: LoadedModel | None = None
    adapter: Path | None = None
    expected: list[list[float]] | None = None

    def client(
        self, *, has_small_pool: bool = False, block_size: int = BLOCK_SIZE, **options: Any
    ) -> tuple[LocalClient, AdapterRef | None]:
        options = {"max_num_batched_tokens": 256, **options}
        config = EngineConfig(
            block_size=block_size,
            max_model_len=MAX_MODEL_LEN,
            check_invariants=True,
            enable_lora=self.adapter is not None,
            **options,
        )
        groups = kv_groups(self.model.cache_layout, block_size)
        num_blocks = peak_blocks(groups, MAX_MODEL_LEN) if has_small_pool else 160
        num_states = 3 if has_small_pool else 40
        answers: list[Answer] = []
        service = None
        if self.adapter is not None:
            service = AdapterService(
                ModelAdapters(self.model), max_rank=8, max_on_host=2, on_done=lambda: None, on_answer=answers.append
            )
        drafter = None
        if self.draft is not None:
            runner = TorchDraftRunner(
                self.draft,
                num_blocks=num_blocks,
                block_size=block_size,
                target_vocab_size=self.model.vocab_size,
                eos_token_ids=[2],
                sampling=DraftSampling.SAMPLED,
            )
            drafter = DraftModel(runner, block_size=block_size, max_len=MAX_MODEL_LEN)
        target = TorchRunner(
            self.model,
            num_blocks=num_blocks,
            block_size=block_size,
            num_states=num_states,
            draft_probs=None if drafter is None else drafter.probabilities,
        )
        engine = Engine(
            config,
            target,
            num_blocks=num_blocks,
            num_states=num_states,
            eos_token_ids=[2],
            speculator=None if drafter is None else AlwaysFull(4, drafter=drafter),
            adapters=service,
        )
        client = LocalClient(engine)
        if service is None:
            return client, None
        service.load(0, str(self.adapter))
        client.generate([])
        (answer,) = answers
        assert isinstance(answer, AdapterLoaded), answer
        return client, AdapterRef("a", str(self.adapter), answer.info.digest)


def _fully_scored(setup: Setup) -> list[list[float]]:
    """The labels' probabilities, from log probabilities of whole prompts, which are computed without the cache."""
    client, adapter = setup.client()
    requests = {
        (number, path): make_request(
            f"{number} {path}",
            [*STATE, *question.ids, *path],
            max_tokens=1,
            prompt_logprobs=0,
            adapter=adapter,
        )
        for number, question in enumerate(QUESTIONS)
        for paths in question.labels
        for path in paths
    }
    outputs = client.generate(requests.values())

    def probability(number: int, path: LabelPath) -> float:
        scores = outputs[requests[number, path].id].prompt_logprobs
        assert scores is not None
        return math.exp(math.fsum(each.logprob for each in scores[-len(path) :] if each is not None))

    expected = []
    for number, question in enumerate(QUESTIONS):
        paths = [path for each in question.labels for path in each]
        masses = []
        for own in question.labels:
            mass = 0.0
            for path in own:
                longer = [each for each in paths if len(each) > len(path) and each[: len(path)] == path]
                nearest = [each for each in longer if not any(each != o and each[: len(o)] == o for o in longer)]
                mass += probability(number, path) - math.fsum(probability(number, each) for each in nearest)
            masses.append(mass)
        expected.append([mass / sum(masses) for mass in masses])
    return expected


@pytest.fixture(scope="module")
def setups(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Setup]:
    return functools.cache(lambda layers, extra: _setup(layers, extra, tmp_path_factory.mktemp("model")))


def _setup(layers: str, extra: str, folder: Path) -> Setup:
    model = random_model(CONFIGS[layers]())
    model.save_pretrained(folder / "target")
    made = Setup(load_random(folder / "target"))
    if extra == "adapter":
        random_adapter(model, seed=1, only=ADAPTABLE.get(layers, "")).save(folder / "adapter")
        made.model.decoder.enable_adapters(2, 8)
        made.adapter = folder / "adapter"
    if extra == "draft model":
        # A draft model with recurrent layers is refused.
        if layers == "recurrent":
            random_model(CONFIGS["full attention"]()).save_pretrained(folder / "draft")
            made.draft = load_random(folder / "draft")
        else:
            made.draft = load_random(folder / "target")
    made.expected = _fully_scored(made)
    return made


def _beside() -> list[EngineRequest]:
    return [
        make_request(f"r{number}", STATE[: 2 * number + 3], max_tokens=20, temperature=0.5, ignore_eos=True)
        for number in range(9)
    ]


def _check(output: RequestOutput, expected: list[list[float]] | None) -> None:
    assert output.scores is not None, output.error
    assert expected is not None
    for scores, probabilities in zip(output.scores, expected, strict=True):
        assert scores.probabilities == pytest.approx(probabilities, abs=1e-5)


@pytest.mark.parametrize(("layers", "extra", "schedule"), CASES, ids=str)
def test_scores_are_those_of_full_scoring(
    setups: Callable[[str, str], Setup], layers: str, extra: str, schedule: dict[str, Any]
) -> None:
    setup = setups(layers, extra)
    client, adapter = setup.client(**schedule)
    cold, warm = (
        ScoringRequest(id=id, prompt_ids=STATE, questions=QUESTIONS, arrival_s=0.0, adapter=adapter)
        for id in ("cold", "warm")
    )
    outputs = client.generate([cold])
    outputs |= client.generate([*_beside(), warm])
    for request in (cold, warm):
        _check(outputs[request.id], setup.expected)
    if schedule is TIGHT:
        assert sum(step.preemptions for step in client.steps)
    if not schedule:
        assert outputs["cold"].num_cached_tokens == 0
        assert outputs["warm"].num_cached_tokens >= len(STATE) - BLOCK_SIZE
