"""The bytes and operations that are counted of steps, against sums over single rows and positions."""

import random
from typing import Any

import pytest
import torch

from engine.runner.step_work import ModelWork, _Attention, _Experts, model_work, num_bytes
from engine.scheduling.plan import PlanItem, StepPlan, StepResult, StepWork
from engine.scheduling.sequence import Sequence
from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.decoder import Decoder
from models.loaded_model import LoadedModel
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.engines import make_engine, make_request
from tests.helpers.ledger import LedgerStep
from tests.helpers.techniques import described
from tests.models.families.deepseek_v32_variants import deepseek_v32

VOCAB, HIDDEN, INNER = 50, 32, 48
HEADS, KV_HEADS, HEAD = 4, 2, 8
MLP = MLPSpec(INNER, Activation.SILU, is_gated=True)
NORM = NormSpec(NormKind.RMS, 1e-6)
FULL, WINDOW = AttentionSpec(HEADS, KV_HEADS, HEAD, 0.25), AttentionSpec(HEADS, KV_HEADS, HEAD, 0.25, sliding_window=5)
EXPERTS = MoESpec(8, MLP, RouterSpec(RouterScore.SOFTMAX, 2, renormalizes=True))

ATTENTION_WEIGHTS = HIDDEN * (HEADS + 2 * KV_HEADS) * HEAD + HEADS * HEAD * HIDDEN
MLP_WEIGHTS = 3 * HIDDEN * INNER
KV_BYTES = 2 * KV_HEADS * HEAD * 2  # of a position in one layer, in bf16
SEEN_FLOPS = 2 * HEADS * 2 * HEAD


def _work(*layers: LayerSpec) -> tuple[ModelWork, Decoder]:
    """The work of a model without memory: only its sizes count."""
    return _work_of(DecoderSpec(VOCAB, HIDDEN, 64, layers, NORM, has_tied_head=True))


def _work_of(spec: DecoderSpec) -> tuple[ModelWork, Decoder]:
    dtype = torch.bfloat16
    decoder = Decoder(spec, cpu_compute(dtype))
    model = LoadedModel(
        decoder=decoder,
        architecture="LlamaForCausalLM",
        compute=cpu_compute(dtype),
        vocab_size=VOCAB,
        max_position=64,
        weight_bytes=0,
        tokenizer=TokenizerAssets(b"", None, {}, None, [2], False),
        generation_defaults={},
    )
    work = model_work(model)
    assert work is not None
    return work, decoder


def _item(num_computed: int, num_new: int, *, num_draft: int = 0, needs_logits: bool = True) -> PlanItem:
    tokens = [1] * (num_computed + num_new)
    sequence = Sequence(make_request("a", tokens), 0, tokens, len(tokens))
    return PlanItem(sequence, num_computed, num_new, num_draft, needs_logits)


@pytest.mark.parametrize("seed", range(20))
def test_positions_that_rows_see_are_the_sum_over_rows(seed: int) -> None:
    draw = random.Random(seed)
    window = draw.choice((1, 5, 16))
    is_chunked = draw.random() < 0.5
    kind: dict[str, Any] = {"chunk" if is_chunked else "sliding_window": window}
    spec = AttentionSpec(1, 1, 8, 1.0, **kind)
    attention = _Attention(window, is_chunked, 1, 1)
    start, num_new = draw.randrange(60), draw.randrange(1, 40)
    rows = range(start, start + num_new)
    assert attention.num_seen(start, start + num_new) == sum(row + 1 - spec.first_seen(row) for row in rows)
    assert attention.first_seen(start) == spec.first_seen(start)


def test_a_decoding_step_reads_all_weights_once_and_each_sequence_its_keys_and_values() -> None:
    work, decoder = _work(LayerSpec(FULL, MLP, NORM), LayerSpec(FULL, MLP, NORM))
    step = work.of(StepPlan([_item(20, 1), _item(9, 1)]))
    weights = 2 * (ATTENTION_WEIGHTS + MLP_WEIGHTS) + VOCAB * HIDDEN
    assert step.read_bytes == num_bytes([decoder.layers, decoder.head]) + 2 * (21 + 10) * KV_BYTES
    assert abs(num_bytes([decoder.layers, decoder.head]) - 2 * weights) < 0.02 * 2 * weights  # norms are the rest
    assert step.write_bytes == 2 * 2 * KV_BYTES
    assert step.flops == 2 * 2 * weights + 2 * (21 + 10) * SEEN_FLOPS


def test_a_prompt_s_chunk_computes_every_row_and_no_logits() -> None:
    work, decoder = _work(LayerSpec(FULL, MLP, NORM), LayerSpec(WINDOW, MLP, NORM))
    step = work.of(StepPlan([_item(8, 4, needs_logits=False)]))
    seen = sum(range(9, 13)) + 4 * 5
    assert step.read_bytes == num_bytes([decoder.layers]) + (12 + 12 - 4) * KV_BYTES
    assert step.write_bytes == 4 * 2 * KV_BYTES
    assert step.flops == 4 * 2 * 2 * (ATTENTION_WEIGHTS + MLP_WEIGHTS) + seen * SEEN_FLOPS


def test_beyond_the_chosen_positions_an_indexer_alone_reads_more() -> None:
    config = deepseek_v32()
    work, decoder = _work_of(described(config)[1])
    steps = [work.of(StepPlan([_item(length, 1)])) for length in (40, 41)]

    indexers = [spec.indexer for spec in decoder.spec.attention_specs if spec.indexer is not None]
    assert len(indexers) == config.num_hidden_layers
    assert steps[1].read_bytes - steps[0].read_bytes == sum(2 * each.head_dim for each in indexers)
    assert steps[1].flops - steps[0].flops == sum(2 * each.num_heads * each.head_dim for each in indexers)


def test_a_draft_has_logits_for_each_of_its_rows() -> None:
    work, _ = _work(LayerSpec(FULL, MLP, NORM))
    plain, drafted = (work.of(StepPlan([_item(20, 4, num_draft=num)])) for num in (0, 3))
    assert drafted.flops - plain.flops == 3 * 2 * VOCAB * HIDDEN
    assert drafted.read_bytes == plain.read_bytes


def test_experts_are_read_as_even_routing_would_choose_them() -> None:
    work, decoder = _work(LayerSpec(FULL, EXPERTS, NORM))
    one = num_bytes([decoder.layers[0].mlp.experts[0]])
    assert one == 2 * MLP_WEIGHTS
    dense = num_bytes([decoder.layers, decoder.head]) - 8 * one
    assert work.of(StepPlan([_item(0, 1)])).read_bytes == dense + 2 * one + KV_BYTES
    assert work.of(StepPlan([_item(0, 500)])).read_bytes == pytest.approx(dense + 8 * one + 500 * KV_BYTES, rel=1e-6)
    flops = work.of(StepPlan([_item(0, 1)])).flops
    assert flops == 2 * (ATTENTION_WEIGHTS + 2 * MLP_WEIGHTS + VOCAB * HIDDEN) + SEEN_FLOPS


def test_the_expected_number_of_experts_is_that_of_draws() -> None:
    draw = random.Random(0)
    experts = _Experts(num_experts=16, num_chosen=3, num_bytes=1)
    for num_rows in (1, 2, 7):
        drawn = [len({i for _ in range(num_rows) for i in draw.sample(range(16), 3)}) for _ in range(4000)]
        assert experts.read_bytes(num_rows) == pytest.approx(sum(drawn) / len(drawn), rel=0.01)


def test_a_step_s_work_is_in_its_stats_where_the_step_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, runner = make_engine()
    collect = runner.collect

    def worked(pending: LedgerStep) -> StepResult:
        return StepResult(collect(pending).rows, work=StepWork(300, 20, 1000))

    monkeypatch.setattr(runner, "collect", worked)
    engine.add(make_request("a", [1, 2], max_tokens=1))
    stats = engine.step().stats
    assert (stats.read_bytes, stats.write_bytes, stats.flops) == (300, 20, 1000)
    stats = engine.step().stats
    assert (stats.read_bytes, stats.write_bytes, stats.flops) == (0, 0, 0)
