"""build_batch: rows, positions, slots and logit rows of mixed plans."""

import torch

from engine.plan import PlanItem, StepPlan
from engine.protocol import EngineRequest, SamplingParams
from engine.runner.batch_builder import build_batch
from engine.sequence import Sequence


def _sequence(num_tokens: int, num_computed: int, blocks: list[int], draft: list[int] | None = None) -> Sequence:
    tokens = list(range(100, 100 + num_tokens))
    request = EngineRequest(id="a", prompt_ids=tokens, sampling=SamplingParams(max_tokens=1), arrival_s=0.0)
    return Sequence(
        request=request,
        seed=0,
        tokens=tokens,
        num_prompt=num_tokens,
        num_computed=num_computed,
        tables=[blocks],
        draft=draft or [],
    )


def test_a_prefill_chunk_and_a_decode_share_a_batch() -> None:
    prefill = PlanItem(_sequence(10, 3, [7, 2, 5]), num_new=5, num_draft=0, needs_logits=False)
    decode = PlanItem(_sequence(6, 5, [1, 4]), num_new=1, num_draft=0, needs_logits=True)
    batch = build_batch(StepPlan([prefill, decode]), 4, torch.device("cpu"))
    assert batch.token_ids.tolist() == [103, 104, 105, 106, 107, 105]
    assert batch.positions.tolist() == [3, 4, 5, 6, 7, 5]
    assert batch.groups[0].slot_mapping.tolist() == [7 * 4 + 3, 8, 9, 10, 11, 4 * 4 + 1]
    assert batch.groups[0].block_tables.tolist() == [[7, 2], [1, 4]]
    assert batch.cu_seqlens_q.tolist() == [0, 5, 6]
    assert batch.seq_lens.tolist() == list(batch.context_lens) == [8, 6]
    assert batch.query_lens == (5, 1)
    assert batch.logit_rows.tolist() == [5]


def test_draft_rows_follow_the_accepted_tokens_and_want_logits() -> None:
    item = PlanItem(_sequence(6, 5, [0, 1], draft=[900, 901]), num_new=3, num_draft=2, needs_logits=True)
    batch = build_batch(StepPlan([item]), 4, torch.device("cpu"))
    assert batch.token_ids.tolist() == [105, 900, 901]
    assert batch.positions.tolist() == [5, 6, 7]
    assert batch.logit_rows.tolist() == [0, 1, 2]
