"""FaultyPooler: a plan's faults reach an engine that pools texts."""

from collections.abc import Sequence

import pytest
import torch

from engine.child_processes.fault_plan import FaultPlan
from engine.faults.wrappers import FaultyPooler
from engine.pooling.engine import PoolingEngine
from engine.pooling.queue import PoolingQueue
from engine.pooling.step_size import PoolingStepSize
from engine.protocol import FinishReason, PoolingParams, PoolingRequest, PoolingTask
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
