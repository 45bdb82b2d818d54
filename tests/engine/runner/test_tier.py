"""Texts of a real model are the same when its blocks were evicted to a tier and came back."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from engine.config import EngineConfig
from engine.engine import Engine
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import peak_blocks, prefix_unit
from engine.scheduling.kv.moves import AttachedTier, BlockSave
from models.loaded_model import LoadedModel
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, qwen2_config, random_model
from tests.helpers.engines import SlowBudget, make_prompt, make_request
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient
from tests.helpers.memory_tier import MemoryTier
from tests.models.families.deepseek_variants import deepseek_v3

BLOCK_SIZE, LONGEST = 16, 160
MODELS: dict[str, tuple[Callable[[], PretrainedConfig], torch.dtype | None]] = {
    "bf16": (llama_config, None),
    "int8": (llama_config, torch.int8),
    "fp8_e4m3": (llama_config, torch.float8_e4m3fn),
    "windows": (
        lambda: qwen2_config(num_hidden_layers=3, use_sliding_window=True, sliding_window=20, max_window_layers=1),
        torch.int8,
    ),
    "latent": (deepseek_v3, torch.bfloat16),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    config, kv_dtype = MODELS[request.param]
    random_model(config()).save_pretrained(tmp_path)
    return load_random(tmp_path, torch.bfloat16, kv_dtype=kv_dtype)


def client_of(model: LoadedModel, num_blocks: int, tier: MemoryTier | None = None) -> LocalClient:
    config = EngineConfig(
        block_size=BLOCK_SIZE, max_model_len=LONGEST, max_num_seqs=4, max_num_batched_tokens=64, check_invariants=True
    )
    runner = TorchRunner(model, num_blocks=num_blocks, block_size=BLOCK_SIZE)
    attached = None if tier is None else AttachedTier(tier, runner)
    engine = Engine(config, runner, num_blocks=num_blocks, eos_token_ids=[2], budget=SlowBudget(64), tier=attached)
    return LocalClient(engine)


def prompt_of(seed: int) -> list[int]:
    return [token % VOCAB_SIZE for token in make_prompt(70, seed=seed)]


def test_texts_are_the_same_after_eviction_and_reload(model: LoadedModel) -> None:
    """The first prefix comes from the pool in one engine, and from the tier in another: the same numbers."""
    groups = kv_groups(model.cache_layout, BLOCK_SIZE)
    num_least = peak_blocks(groups, LONGEST)
    tier = MemoryTier()
    roomy, tight = client_of(model, 40 * num_least), client_of(model, 2 * num_least, tier)

    def texts(client: LocalClient, name: str, seed: int) -> tuple[list[int], int]:
        request = make_request(name, prompt_of(seed), max_tokens=6, temperature=0.0, ignore_eos=True)
        output = client.generate([request])[name]
        return output.new_ids, output.num_cached_tokens

    for number, seed in enumerate(range(1, 7)):
        assert texts(tight, f"first {number}", seed)[0] == texts(roomy, f"first {number}", seed)[0]
    assert tier.blocks
    for number in range(2):  # more of it comes back each time, as far as memory for reads allows
        again, num_cached = texts(tight, f"again {number}", 1)
        expected, _ = texts(roomy, f"again {number}", 1)
        assert again == expected
        assert num_cached % prefix_unit(groups) == 0
    assert tier.num_read > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), MemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"), MemoryError),
        (RuntimeError("expected a tensor"), RuntimeError),
    ],
)
def test_torchs_errors_of_memory_are_memory_errors_when_blocks_are_saved(
    error: Exception, expected: type[Exception]
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    runner: Any = SimpleNamespace(_copy=SimpleNamespace(read=fail))
    with pytest.raises(expected) as raised:
        TorchRunner.save(runner, [BlockSave(0, 0, b"")])
    assert type(raised.value) is expected
