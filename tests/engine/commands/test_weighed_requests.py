"""Eight requests of 32k tokens take what `headrace doctor` said before: keys, values, states and checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma4TextConfig,
    GraniteMoeHybridConfig,
    KimiLinearConfig,
    MiMoV2FlashConfig,
    PretrainedConfig,
)

from engine.commands.weighed import weigh_files
from engine.config import EngineConfig, LoadFormat
from engine.protocol import StepStats
from engine.runner.kv_budget import KVBudget, plan_kv_budget
from engine.runner.kv_groups import kv_groups
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import RowResult, StepResult
from engine.scheduling.scheduler import Scheduler
from models.attention.cpu import CpuAttention
from models.kv.cache import CacheLayout
from models.kv.layer import LayerKV
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.engines import make_request
from tests.helpers.techniques import described

BLOCK_SIZE, NUM_SEQS, MAX_LEN = 16, 8, 32 * 1024
NUM_ANSWER = 200  # more than the steps for all prompts, so that all run at once
MIB = 1 << 20


def granite_h_1b() -> PretrainedConfig:
    kinds = ["full_attention" if index % 10 == 5 else "linear_attention" for index in range(40)]
    heads = {"num_attention_heads": 12, "num_key_value_heads": 4, "hidden_size": 1536, "num_local_experts": 0}
    space = {"mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1}
    return GraniteMoeHybridConfig(**heads, **space, num_hidden_layers=40, layer_types=kinds)


def gemma4_e2b() -> PretrainedConfig:
    kinds = ["full_attention" if index % 5 == 4 else "sliding_attention" for index in range(35)]
    heads = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512}
    return Gemma4TextConfig(
        **heads, num_hidden_layers=35, layer_types=kinds, num_kv_shared_layers=20, sliding_window=512
    )


# MiB of a request by hand: 32k positions in full attention, the positions of windows, and three states.
MODELS: dict[str, tuple[Callable[[], PretrainedConfig], float]] = {
    "Granite 4 H 1B": (granite_h_1b, 32 * 4 * 2 + 3 * 36 * (1.5 + 3 * 3328 * 2 / MIB)),
    "Gemma 4 E2B": (gemma4_e2b, 32 * 3 * 2 + 12 * 0.5),
    "MiMo-V2-Flash": (MiMoV2FlashConfig, 32 * 9 * 2.5 + 39 * 129 * 5 / 1024),
    "Kimi Linear 48B": (KimiLinearConfig, 32 * 6 * 1.125 + 3 * 21 * (2 + 3 * 3 * 4096 * 2 / MIB)),
}


@pytest.mark.parametrize("name", MODELS)
def test_requests_take_what_was_said_before(name: str, tmp_path: Path) -> None:
    make, by_hand = MODELS[name]
    config = make()
    config.architectures, config.max_position_embeddings = [described(config)[0]], 4 * MAX_LEN
    config.save_pretrained(tmp_path)
    options = EngineConfig(load_format=LoadFormat.DUMMY, max_model_len=MAX_LEN, max_num_seqs=NUM_SEQS)

    said = weigh_files(ModelFiles(tmp_path, (), "m"), None, options).most_kv_bytes

    layout = cpu_compute(torch.bfloat16, CpuAttention()).cache_layout(described(config)[1].mixers)
    groups = kv_groups(layout, BLOCK_SIZE)
    budget = plan_kv_budget(
        EngineConfig(max_model_len=MAX_LEN, max_num_seqs=NUM_SEQS, kv_cache_memory_bytes=said),
        groups=groups,
        bytes_per_block=layout.block_bytes(BLOCK_SIZE),
        bytes_per_state=layout.state_bytes,
        model_max_len=config.max_position_embeddings,
        free_bytes=said,
    )
    steps = filled(groups, budget)
    assert said / MIB == pytest.approx(NUM_SEQS * by_hand, rel=0.02)
    assert allocated_bytes(layout, budget) == pytest.approx(said, rel=0.001)
    # All run at once in it, and fill it.
    assert max(stats.running for stats in steps) == NUM_SEQS
    assert sum(stats.preemptions for stats in steps) == 0
    assert max(stats.blocks_used for stats in steps) >= 0.98 * budget.num_blocks
    assert max(stats.states_used + stats.states_cached for stats in steps) == budget.num_states


def filled(groups: tuple[KVGroup, ...], budget: KVBudget) -> list[StepStats]:
    """Run NUM_SEQS requests of MAX_LEN tokens at once, without a model."""
    scheduler = Scheduler(
        SchedulerConfig(
            num_blocks=budget.num_blocks,
            num_states=budget.num_states,
            kv_groups=groups,
            max_model_len=budget.max_model_len,
            max_num_seqs=NUM_SEQS,
            max_num_batched_tokens=2048,
        )
    )
    for number in range(NUM_SEQS):
        prompt = [1 + number] * (MAX_LEN - NUM_ANSWER)
        scheduler.add(make_request(str(number), prompt, max_tokens=NUM_ANSWER, ignore_eos=True), None)
    steps = []
    while scheduler.has_work:
        plan = scheduler.schedule()
        scheduler.update(plan, StepResult([RowResult([3] if item.needs_logits else []) for item in plan.items]))
        steps.append(scheduler.take_stats())
    return steps


def allocated_bytes(layout: CacheLayout, budget: KVBudget) -> int:
    """The bytes of all tensors that an engine allocates; layers of different groups share theirs."""
    caches = layout.allocate(budget.num_blocks, BLOCK_SIZE, torch.device("meta"), num_states=budget.num_states)
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for cache in caches
        for tensor in (cache.parts.values() if isinstance(cache, LayerKV) else cache.parts)
    }
    return sum(storages.values())
