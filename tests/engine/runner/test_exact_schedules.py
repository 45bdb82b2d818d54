"""Determinism on real kernels: tokens and log probabilities are equal to the bit under every schedule."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch
from transformers import PretrainedConfig

from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest, RequestOutput, Resumption
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import peak_blocks
from engine.speculation.proposers import DraftSource
from engine.startup.determinism import prepare_determinism
from models.attention.cpu import CpuAttention
from models.kernels.cpu.library import set_num_threads
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel
from models.quant.tensor import Encoding
from tests.helpers.amx import without_amx
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, load_folder, mistral_config, random_model
from tests.helpers.drafting import AlwaysFull
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.loaded import as_loaded
from tests.helpers.local_client import LocalClient
from tests.models.families.deepseek_variants import deepseek_v3

BLOCK_SIZE = 16
MAX_LEN = 704
SHARED = 560  # tokens, more than a segment of attention
WIDE = {"max_position_embeddings": MAX_LEN}

MODELS: dict[str, tuple[Callable[[], PretrainedConfig], WeightOptions | None, torch.dtype | None]] = {
    "bf16": (lambda: llama_config(**WIDE), None, None),
    "bf16 with int8 keys": (lambda: llama_config(**WIDE), None, torch.int8),
    "bf16 with int4 keys": (lambda: llama_config(**WIDE), None, torch.int4),
    "int4": (lambda: llama_config(**WIDE), WeightOptions(quantize_to=Encoding.INT4, group_size=32), None),
    "windows": (lambda: mistral_config(**{**WIDE, "sliding_window": 300}), None, None),
    "latent attention and experts": (lambda: deepseek_v3(**WIDE), None, None),
}


@pytest.fixture(autouse=True, scope="module")
def same_order() -> Iterator[None]:
    with without_amx():
        yield


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    make_config, weights, kv_dtype = MODELS[request.param]
    folder, backend = tmp_path_factory.mktemp("model"), CpuAttention()
    random_model(make_config()).to(torch.bfloat16).save_pretrained(folder)
    decoder = load_folder(folder, torch.bfloat16, backend, weights, kv_dtype=kv_dtype)
    decoder.serve_context(MAX_LEN)
    loaded = dataclasses.replace(as_loaded(decoder, backend=backend, kv_dtype=kv_dtype), max_position=MAX_LEN)
    prepare_determinism(EngineConfig(deterministic=True), loaded)
    return loaded


def _run(
    model: LoadedModel, requests: list[EngineRequest], *, has_small_pool: bool = False, threads: int = 1, **options: Any
) -> tuple[dict[str, RequestOutput], LocalClient]:
    config = EngineConfig(
        **{"block_size": BLOCK_SIZE, "max_model_len": MAX_LEN, "max_num_batched_tokens": 2048, **options},
        check_invariants=True,
    )
    num_blocks = peak_blocks(kv_groups(model.cache_layout, BLOCK_SIZE), MAX_LEN) if has_small_pool else 400
    runner = TorchRunner(model, num_blocks=num_blocks, block_size=BLOCK_SIZE)
    speculator = AlwaysFull(5, sources=frozenset({DraftSource.PREDICTION}))
    client = LocalClient(Engine(config, runner, num_blocks=num_blocks, eos_token_ids=[2], speculator=speculator))
    set_num_threads(threads)
    try:
        return client.generate(requests), client
    finally:
        set_num_threads(1)


def _requests() -> list[EngineRequest]:
    shared = [token % VOCAB_SIZE for token in make_prompt(SHARED)]
    own = [[token % VOCAB_SIZE for token in make_prompt(3 + 37 * n, seed=n)] for n in range(4)]
    prompts = [shared + own[0], own[1], shared + own[2], own[3], shared + own[3], own[0]]
    parameters: list[dict[str, Any]] = [
        {"temperature": 0.0, "prompt_logprobs": 2},
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.9, "top_p": 0.9, "prompt_logprobs": 0},
        {"temperature": 1.2, "min_p": 0.02, "repetition_penalty": 1.2},
        {"temperature": 1.0, "top_k": 20},
    ]
    return [
        make_request(f"r{n}", prompt, max_tokens=14, seed=n, logprobs=5, ignore_eos=True, **parameters[n])
        for n, prompt in enumerate(prompts)
    ]


def _with_predictions(requests: list[EngineRequest], alone: dict[str, RequestOutput]) -> list[EngineRequest]:
    """Drafts of which every fourth token is wrong."""
    wrong = {
        each.id: [token if n % 4 < 3 else (token + 1) % VOCAB_SIZE for n, token in enumerate(alone[each.id].new_ids)]
        for each in requests
    }
    return [msgspec.structs.replace(each, prediction_ids=wrong[each.id]) for each in requests]


@pytest.fixture(scope="module")
def alone(model: LoadedModel) -> dict[str, RequestOutput]:
    """The answer to each request by an engine that has no other."""
    return {request.id: _run(model, [request])[0][request.id] for request in _requests()}


def _assert_equal(outputs: dict[str, RequestOutput], alone: dict[str, RequestOutput]) -> None:
    for name, expected in alone.items():
        assert outputs[name].new_ids == expected.new_ids, name
        assert outputs[name].logprobs == expected.logprobs, name
        assert outputs[name].prompt_logprobs == expected.prompt_logprobs, name


SCHEDULES: dict[str, dict[str, Any]] = {
    "together": {},
    "together with two threads": {"threads": 2},
    "chunks of 48": {"max_num_batched_tokens": 48, "max_num_seqs": 4},
    "chunks of 333 without prefix cache": {"long_prefill_token_threshold": 333, "enable_prefix_caching": False},
    "small pool": {"has_small_pool": True},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_answers_are_equal_to_the_bit(model: LoadedModel, alone: dict[str, RequestOutput], schedule: str) -> None:
    outputs, client = _run(model, _requests(), **SCHEDULES[schedule])
    _assert_equal(outputs, alone)
    gives_blocks_back = kv_groups(model.cache_layout, BLOCK_SIZE)[0].window is not None
    if schedule == "small pool" and not gives_blocks_back:
        assert sum(stats.preemptions for stats in client.steps) > 0


def test_answers_are_equal_to_the_bit_with_drafts(model: LoadedModel, alone: dict[str, RequestOutput]) -> None:
    outputs, client = _run(model, _with_predictions(_requests(), alone))
    assert len(client.steps) < 14  # drafts were accepted
    _assert_equal(outputs, alone)


def test_a_resumed_answer_continues_with_the_same_bits(model: LoadedModel, alone: dict[str, RequestOutput]) -> None:
    resumption = Resumption(output_ids=alone["r2"].new_ids[:6], num_cached_tokens=0)
    request = msgspec.structs.replace(_requests()[2], resumption=resumption)
    rest = _run(model, [request], threads=2)[0]["r2"]
    assert rest.new_ids == alone["r2"].new_ids[6:]
    assert alone["r2"].logprobs is not None
    assert rest.logprobs == alone["r2"].logprobs[6:]
