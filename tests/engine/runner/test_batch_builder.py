"""build_batch: rows, positions, slots and logit rows of mixed plans."""

import torch

from engine.protocol import EngineRequest, SamplingParams
from engine.runner.batch_buffers import BatchBuffers, BatchShape
from engine.runner.batch_builder import build_batch
from engine.runner.block_tables import BlockTables
from engine.runner.state_batch import accepted_states, state_spans
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import PlanItem, RowResult, StepPlan
from engine.scheduling.sequence import Sequence
from models.batch import ForwardBatch, KVGroupBatch, StateGroupBatch

CPU = torch.device("cpu")
STATES = (KVGroup(4, is_state=True),)


def _sequence(num_tokens: int, blocks: list[int], draft: list[int] | None = None) -> Sequence:
    tokens = list(range(100, 100 + num_tokens))
    request = EngineRequest(id="a", prompt_ids=tokens, sampling=SamplingParams(max_tokens=1), arrival_s=0.0)
    return Sequence(
        request=request,
        seed=0,
        tokens=tokens,
        num_prompt=num_tokens,
        tables=[blocks],
        draft=draft or [],
    )


def test_a_prefill_chunk_and_a_decode_share_a_batch() -> None:
    prefill = PlanItem(_sequence(10, [7, 2, 5]), 3, num_new=5, num_draft=0, needs_logits=False)
    decode = PlanItem(_sequence(6, [1, 4]), 5, num_new=1, num_draft=0, needs_logits=True)
    batch = build_batch(StepPlan([prefill, decode]), (KVGroup(4),), CPU)
    assert batch.token_ids.tolist() == [103, 104, 105, 106, 107, 105]
    assert batch.positions.tolist() == [3, 4, 5, 6, 7, 5]
    assert batch.groups[0].slot_mapping.tolist() == [7 * 4 + 3, 8, 9, 10, 11, 4 * 4 + 1]
    assert batch.groups[0].block_tables.tolist() == [[7, 2], [1, 4]]
    assert batch.cu_seqlens_q.tolist() == [0, 5, 6]
    assert batch.seq_lens.tolist() == list(batch.context_lens) == [8, 6]
    assert batch.query_lens == (5, 1)
    assert batch.logit_rows.tolist() == [5]


def test_decodes_alone_have_the_rows_that_they_have_beside_a_chunk() -> None:
    groups = (KVGroup(4), KVGroup(2))
    sequences = _sequence(10, [7, 2, 5]), _sequence(6, [1, 4]), _sequence(3, [3])
    for sequence in sequences:
        sequence.tables.append([8, 9, 10, 11, 12])
    decodes = [PlanItem(each, len(each.tokens) - 1, 1, 0, needs_logits=True) for each in sequences]
    chunk = PlanItem(_sequence(4, [6]), 0, num_new=2, num_draft=0, needs_logits=False)
    chunk.sequence.tables.append([13])
    alone, beside = (build_batch(StepPlan(items), groups, CPU) for items in (decodes, [*decodes, chunk]))
    ahead = build_batch(StepPlan(decodes, token_rows=[0, 1, 2]), groups, CPU)
    for batch in (alone, ahead):
        assert batch.positions.tolist() == beside.positions[:3].tolist() == [9, 5, 2]
        assert batch.cu_seqlens_q.tolist() == beside.cu_seqlens_q[:4].tolist()
        assert batch.logit_rows.tolist() == beside.logit_rows.tolist()
        assert (batch.query_lens, batch.context_lens) == (beside.query_lens[:3], beside.context_lens[:3])
        for own, other in zip(batch.groups, beside.groups, strict=True):
            assert isinstance(own, KVGroupBatch)
            assert isinstance(other, KVGroupBatch)
            assert own.slot_mapping.tolist() == other.slot_mapping[:3].tolist()
            assert own.block_tables.tolist() == other.block_tables[:3].tolist()
    assert alone.token_ids.tolist() == beside.token_ids[:3].tolist() == [109, 105, 102]
    assert ahead.token_ids.tolist() == [0, 0, 0]


def test_one_row_without_logits_has_none_where_all_items_have_one_row() -> None:
    decode = PlanItem(_sequence(6, [1, 4]), 5, num_new=1, num_draft=0, needs_logits=True)
    chunk = PlanItem(_sequence(4, [6]), 1, num_new=1, num_draft=0, needs_logits=False)
    assert build_batch(StepPlan([chunk, decode]), (KVGroup(4),), CPU).logit_rows.tolist() == [1]


def test_one_row_of_a_draft_model_may_be_of_the_draft() -> None:
    item = PlanItem(_sequence(6, [1, 4], draft=[7, 8]), 7, num_new=1, num_draft=0, needs_logits=True)
    assert build_batch(StepPlan([item]), (KVGroup(4),), CPU).token_ids.tolist() == [8]


def test_reused_buffers_have_each_batch_at_the_same_place_and_nothing_of_the_last() -> None:
    groups = (KVGroup(4), KVGroup(4, window=5))
    buffers = BatchBuffers(8, BlockTables(groups, 4, 6))
    long, short = _sequence(17, [9, 8, 7, 6, 5]), _sequence(6, [1, 4])
    long.tables.append([-1, -1, -1, 6, 5])
    short.tables.append([1, 4])
    plans = [
        StepPlan([PlanItem(long, 16, 1, 0, needs_logits=True), PlanItem(short, 5, 1, 0, needs_logits=True)]),
        StepPlan([PlanItem(short, 5, 1, 0, needs_logits=True), PlanItem(long, 16, 1, 0, needs_logits=False)]),
        StepPlan([PlanItem(short, 5, 1, 0, needs_logits=True)]),
    ]
    addresses = set()
    for plan in plans:
        reused, fresh = build_batch(plan, groups, CPU, buffers), build_batch(plan, groups, CPU)
        assert buffers.contains(reused)
        assert not buffers.contains(fresh)
        addresses.add(_addresses(reused))
        assert _numbers(reused) == _numbers(fresh)
    assert len(addresses) == 1


def test_copies_on_another_device_are_made_for_each_step() -> None:
    """Tensors of the device "meta" hold no numbers: that they are others is all that can be seen."""
    buffers = BatchBuffers(8, BlockTables([KVGroup(4)], 4, 6))
    shape, meta = BatchShape(rows=1, sequences=1, logit_rows=1, width=2), torch.device("meta")
    assert buffers.tensors(shape, CPU).token_ids is buffers.tensors(shape, CPU).token_ids
    first, second = buffers.tensors(shape, meta), buffers.tensors(shape, meta)
    assert first.token_ids is not second.token_ids
    assert first.groups[0].block_tables is not second.groups[0].block_tables
    assert second.token_ids.device == meta


def test_rows_have_the_adapter_slots_of_their_sequences() -> None:
    buffers = BatchBuffers(8, BlockTables([KVGroup(4)], 4, 6))
    adapted, plain = _sequence(10, [7, 2, 5]), _sequence(6, [1, 4])
    items = [PlanItem(adapted, 3, 3, 0, needs_logits=False), PlanItem(plain, 5, 1, 0, needs_logits=True)]
    assert build_batch(StepPlan(items), (KVGroup(4),), CPU, buffers).adapter_slots is None
    adapted.adapter_slot = 2
    addresses = set()
    for plan, slots in ((items, [2, 2, 2, -1]), (items[:1], [2, 2, 2]), (items[::-1], [-1, 2, 2, 2])):
        for batch in (build_batch(StepPlan(plan), (KVGroup(4),), CPU, reused) for reused in (buffers, None)):
            assert batch.adapter_slots is not None
            assert batch.adapter_slots.dtype == torch.int32
            assert batch.adapter_slots.tolist() == slots
            addresses.add((buffers.contains(batch), batch.adapter_slots.data_ptr() if buffers.contains(batch) else 0))
    assert len(addresses) == 2
    assert build_batch(StepPlan(items), (KVGroup(4),), CPU, has_adapters=False).adapter_slots is None  # a draft model's


def test_a_step_with_more_rows_than_the_buffers_has_its_own() -> None:
    buffers = BatchBuffers(4, BlockTables([KVGroup(4)], 4, 6))
    plan = StepPlan([PlanItem(_sequence(10, [7, 2, 5]), 3, num_new=5, num_draft=0, needs_logits=False)])
    batch = build_batch(plan, (KVGroup(4),), CPU, buffers)
    assert not buffers.contains(batch)
    assert _numbers(batch) == _numbers(build_batch(plan, (KVGroup(4),), CPU))


def _addresses(batch: ForwardBatch) -> tuple[int, ...]:
    tables = [group.block_tables for group in batch.groups if isinstance(group, KVGroupBatch)]
    return tuple(tensor.data_ptr() for tensor in (batch.positions, batch.seq_lens, *tables))


def _numbers(batch: ForwardBatch) -> list[object]:
    """All that is in a batch of groups with keys and values."""
    tensors = [batch.token_ids, batch.positions, batch.cu_seqlens_q, batch.seq_lens, batch.logit_rows]
    for group in batch.groups:
        assert isinstance(group, KVGroupBatch)
        tensors += [group.slot_mapping, group.block_tables]
    return [*(tensor.tolist() for tensor in tensors), batch.query_lens, batch.context_lens]


def test_draft_rows_follow_the_accepted_tokens_and_need_logits() -> None:
    item = PlanItem(_sequence(6, [0, 1], draft=[900, 901]), 5, num_new=3, num_draft=2, needs_logits=True)
    batch = build_batch(StepPlan([item]), (KVGroup(4),), CPU)
    assert batch.token_ids.tolist() == [105, 900, 901]
    assert batch.positions.tolist() == [5, 6, 7]
    assert batch.logit_rows.tolist() == [0, 1, 2]


def test_states_are_written_at_the_end_and_at_checkpoints_of_a_step() -> None:
    prefill = PlanItem(_sequence(12, [7, -1, 5]), 3, num_new=8, num_draft=0, needs_logits=False)
    first = PlanItem(_sequence(2, [3]), 0, num_new=2, num_draft=0, needs_logits=True)
    group = build_batch(StepPlan([prefill, first]), STATES, CPU).groups[0]
    assert isinstance(group, StateGroupBatch)
    assert group.sources.tolist() == list(group.source_blocks) == [7, -1]
    # Tokens 3..10: the state after token 3 ends block 0, that after 7 has no block, that after 10 is the last.
    assert group.targets.tolist() == list(group.target_blocks) == [7, -1, -1, -1, -1, -1, -1, 5, -1, 3]
    assert group.speculative_rows is None


def test_a_draft_writes_the_state_after_its_accepted_rows_once_they_are_known() -> None:
    plain = PlanItem(_sequence(6, [-1, 1]), 5, num_new=1, num_draft=0, needs_logits=True)
    draft = PlanItem(_sequence(7, [-1, 2, 4], draft=[900, 901, 902]), 6, num_new=4, num_draft=3, needs_logits=True)
    plan = StepPlan([plain, draft])

    group = build_batch(plan, STATES, CPU).groups[0]
    accepted = accepted_states(state_spans(plan, 0, 4), [RowResult([9]), RowResult([900, 901, 7])], 4, CPU)

    assert isinstance(group, StateGroupBatch)
    assert group.speculative_rows is not None
    assert group.speculative_rows.tolist() == [1, 2, 3, 4]
    assert group.targets.tolist() == [1, -1, -1, -1, -1]
    assert accepted is not None
    rows, states = accepted
    assert rows.tolist() == [0, 1, 2]
    assert states.sources.tolist() == [2]
    assert states.targets.tolist() == [-1, 2, 4]  # after tokens 6, 7 and 8


def test_an_erroneous_row_writes_no_state() -> None:
    draft = PlanItem(_sequence(7, [-1, 2], draft=[900]), 6, num_new=2, num_draft=1, needs_logits=True)
    spans = state_spans(StepPlan([draft]), 0, 4)
    assert accepted_states(spans, [RowResult([], error="not finite")], 4, CPU) is None
