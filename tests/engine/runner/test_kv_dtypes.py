"""Texts of each dtype of the KV cache and kind of attention are the same to the bit, whatever happens to the blocks:
they are shared, preempted, written by drafts and chunks, offloaded to disk, and read by another engine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import PretrainedConfig

from engine.config import EngineConfig
from engine.engine import Engine
from engine.kv_tiers.block_folder import BlockFolder
from engine.kv_tiers.disk import DiskTier
from engine.protocol import EngineRequest, RequestOutput
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import peak_blocks
from engine.scheduling.kv.moves import AttachedTier
from engine.speculation.proposers import DraftSource
from models.forward.key_centers import center_keys
from models.loaded_model import LoadedModel
from tests.helpers.amx import without_amx
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, qwen2_config, random_model
from tests.helpers.drafting import AlwaysFull
from tests.helpers.engines import SlowBudget, make_prompt, make_request
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient
from tests.models.families.deepseek_variants import deepseek_v3
from tests.models.families.variants import llama4

KV_DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    "int8": torch.int8,
    "int4": torch.int4,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "full": llama_config,
    "windows": lambda: qwen2_config(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=20, max_window_layers=1
    ),
    "chunks": lambda: llama4(attention_chunk_size=24),
    "latent": deepseek_v3,
}
BLOCK_SIZE, LONGEST, NUM_NEW = 16, 128, 28


@pytest.fixture(autouse=True, scope="module")
def same_order() -> Iterator[None]:
    with without_amx():
        yield


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    random_model(MODELS[request.param]()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KV_DTYPES)
def model(request: pytest.FixtureRequest, folder: Path) -> LoadedModel:
    model = load_random(folder, torch.bfloat16, kv_dtype=KV_DTYPES[request.param])
    center_keys(model.decoder, model.compute, LONGEST)
    return model


def client_of(
    model: LoadedModel, *, num_blocks: int = 200, tier: DiskTier | None = None, **options: Any
) -> LocalClient:
    options = {"max_num_seqs": 4, "max_num_batched_tokens": 256, **options}
    config = EngineConfig(block_size=BLOCK_SIZE, max_model_len=LONGEST, **options)
    runner = TorchRunner(model, num_blocks=num_blocks, block_size=BLOCK_SIZE)
    engine = Engine(
        config,
        runner,
        num_blocks=num_blocks,
        eos_token_ids=[2],
        budget=SlowBudget(config.max_num_batched_tokens or 0),
        speculator=AlwaysFull(5, sources=frozenset({DraftSource.PREDICTION})),
        tier=None if tier is None else AttachedTier(tier, runner, writes_through=config.kv_persist),
    )
    return LocalClient(engine)


def least_blocks(model: LoadedModel) -> int:
    return peak_blocks(kv_groups(model.cache_layout, BLOCK_SIZE), LONGEST)


def requests() -> list[EngineRequest]:
    """Two with a prefix in common, and one without; greedy and sampled."""
    shared, own = make_prompt(64), [make_prompt(length, seed=length) for length in (21, 9, 33)]
    prompts = [shared + own[0], shared + own[1], own[2]]
    return [
        make_request(
            f"r{number}",
            [token % VOCAB_SIZE for token in prompt],
            max_tokens=NUM_NEW,
            temperature=number / 2,
            seed=number,
            logprobs=2,
            ignore_eos=True,
        )
        for number, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def plain(model: LoadedModel) -> dict[str, RequestOutput]:
    """The answer to each request alone, its prompt in one piece, without a cached prefix."""
    return {
        request.id: client_of(model, enable_prefix_caching=False).generate([request])[request.id]
        for request in requests()
    }


def hit_prefixes(model: LoadedModel, _: Path) -> dict[str, RequestOutput]:
    client = client_of(model)
    client.generate(requests())
    again = client.generate(requests())
    assert all(output.num_cached_tokens >= 32 for output in again.values())
    return again


def preempt(model: LoadedModel, _: Path) -> dict[str, RequestOutput]:
    """In the smallest pool that holds several prompts and not their answers."""
    for num_blocks in range(least_blocks(model), 3 * least_blocks(model)):
        client = client_of(model, num_blocks=num_blocks)
        outputs = client.generate(requests())
        if sum(stats.preemptions for stats in client.steps) > 0:
            return outputs
    raise AssertionError("nothing was preempted")


def compute_in_chunks(model: LoadedModel, _: Path) -> dict[str, RequestOutput]:
    client = client_of(model, max_num_batched_tokens=23)
    outputs = client.generate(requests())
    assert client.steps[0].prefill_tokens == 23
    return outputs


def offload(model: LoadedModel, folder: Path) -> dict[str, RequestOutput]:
    disk = open_disk(model, folder)
    client = client_of(model, num_blocks=4 * least_blocks(model), tier=disk)
    client.generate(requests())
    others = [[token % VOCAB_SIZE for token in make_prompt(LONGEST - 4, seed=seed)] for seed in range(100, 108)]
    client.generate([make_request(f"other {n}", prompt, max_tokens=1) for n, prompt in enumerate(others)])
    outputs = client.generate(requests())
    disk.close(30)
    assert sum(stats.tier_restored_tokens for stats in client.steps) > 0
    return outputs


def restart(model: LoadedModel, folder: Path) -> dict[str, RequestOutput]:
    for _ in range(2):
        disk = open_disk(model, folder)
        client = client_of(model, tier=disk, kv_offload_dir=str(folder), kv_persist=True)
        outputs = client.generate(requests())
        disk.close(30)
    assert sum(stats.tier_restored_tokens for stats in client.steps) >= 80 + 32
    return outputs


def open_disk(model: LoadedModel, folder: Path) -> DiskTier:
    runner = TorchRunner(model, num_blocks=1, block_size=BLOCK_SIZE)
    return DiskTier(BlockFolder(folder / "kv", "1" * 32, max(runner.block_bytes)), 1 << 30)


CONDITIONS = [hit_prefixes, preempt, compute_in_chunks, offload, restart]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda each: each.__name__)
def test_texts_are_those_of_a_plain_run(
    model: LoadedModel,
    plain: dict[str, RequestOutput],
    condition: Callable[[LoadedModel, Path], dict[str, RequestOutput]],
    tmp_path: Path,
) -> None:
    check(condition(model, tmp_path), plain)


def test_texts_with_drafts_are_those_of_a_plain_run(model: LoadedModel, plain: dict[str, RequestOutput]) -> None:
    """Every fourth token of a draft is wrong."""
    client = client_of(model)
    drafted = [
        msgspec.structs.replace(
            request,
            prediction_ids=[
                (token + (number % 4 == 3)) % VOCAB_SIZE for number, token in enumerate(plain[request.id].new_ids)
            ],
        )
        for request in requests()
    ]
    check(client.generate(drafted), plain)
    assert len(client.steps) < NUM_NEW


def check(outputs: dict[str, RequestOutput], plain: dict[str, RequestOutput]) -> None:
    for name, expected in plain.items():
        assert outputs[name].new_ids == expected.new_ids, name
        assert outputs[name].logprobs == expected.logprobs, name
