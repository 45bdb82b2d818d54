"""Faults of a plan reach an engine that pools texts, and blocks on disk."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from engine.child_processes.fault_plan import FaultPlan
from engine.faults.wrappers import FaultyFolder, FaultyPooler
from engine.kv_tiers.disk import DiskTier
from engine.pooling.engine import PoolingEngine
from engine.pooling.queue import PoolingQueue
from engine.pooling.step_size import PoolingStepSize
from engine.protocol import FinishReason, PoolingParams, PoolingRequest, PoolingTask
from tests.helpers.disk_tier import BLOCK_BYTES, ONE, blocks, content_of, key_of, read, settle, stored
from tests.helpers.fake_pooling import pooling_info


class Pooler:
    def compute(self, requests: Sequence[PoolingRequest]) -> list[torch.Tensor]:
        return [torch.ones(3) for _ in requests]


def _ends(plan: str, *batches: str) -> dict[str, FinishReason]:
    """How each text ends, which is named by one letter; texts of a batch come together."""
    queue, step_size = PoolingQueue(honors_priority=False), PoolingStepSize(100)
    pooler = FaultyPooler(Pooler(), FaultPlan(plan))
    engine = PoolingEngine(pooler, pooling_info(), queue, step_size, vocab_size=50, max_num_seqs=8)
    params = PoolingParams(task=PoolingTask.EMBED)
    ends: dict[str, FinishReason] = {}
    for batch in batches:
        engine.add([PoolingRequest(id=name, prompt_ids=[1], params=params, arrival_s=0.0) for name in batch])
        while engine.has_work:
            ends |= {output.id: output.finish_reason for output in engine.step().outputs}
    return ends


@pytest.mark.parametrize(
    ("plan", "failing"),
    [
        ("step:raise:2", ""),  # computed again, each alone
        ("step:memory:2", ""),  # computed again, fewer at once
        ("request:raise:2", "c"),
        ("logits:nan:2", "c"),
        ("step:raise:1,logits:nan:9", ""),
    ],
)
def test_a_fault_ends_no_more_texts_than_it_should(plan: str, failing: str) -> None:
    ends = _ends(plan, "ab", "cd", "e")
    assert ends.keys() == set("abcde")
    assert "".join(name for name in sorted(ends) if ends[name] is FinishReason.ERROR) == failing


def test_faults_of_blocks_on_disk_are_misses_and_counts(tmp_path: Path) -> None:
    plan = FaultPlan("kv_write:full:2,kv_read:fail:2,kv_read:hang=0:3")
    tier = DiskTier(FaultyFolder(plan, tmp_path / "kv", ONE, BLOCK_BYTES), 1 << 20)
    tier.write(blocks(1, 2, 3, 4))
    settle(tier)
    assert stored(tier, range(5)) == [1, 3, 4]
    assert read(tier, 1, 3, 4) == [content_of(key_of(1)), None, content_of(key_of(4))]
    stats = tier.take_stats()
    tier.close(30)
    assert (stats.hits, stats.misses, stats.failures) == (2, 1, 2)
