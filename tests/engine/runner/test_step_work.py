"""The bytes and operations that are counted of steps, against sums over single rows and positions."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

from engine.commands.bench.costs import attention_cost, linear_cost
from engine.runner.step_work import model_work, num_bytes
from engine.scheduling.plan import PlanItem, StepPlan, StepResult, StepWork
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.work import AttentionSizes, ExpertSizes, ModelWork
from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.kv_layout import KVLayout
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.kernels.ops import Operations
from models.layers.attention.attention import Attention
from models.layers.attention.shared_attention import SharedAttention
from models.layers.moe import MoE
from models.linear.linear import Linear
from models.loaded_model import LoadedModel
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.checkpoints import cpu_compute, load_folder, random_model, save_model
from tests.helpers.engines import make_engine, make_request
from tests.helpers.ledger import LedgerStep
from tests.helpers.loaded import as_loaded
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.techniques import described
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.deepseek_v32_variants import deepseek_v32
from tests.models.families.gemma4_variants import gemma4

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
    attention = AttentionSizes(window, is_chunked, 1, 1)
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


def test_a_row_of_logits_costs_the_head_and_the_last_feed_forward() -> None:
    work, _ = _work(LayerSpec(FULL, MLP, NORM), LayerSpec(FULL, MLP, NORM))
    assert work.row_cost == (MLP_WEIGHTS + VOCAB * HIDDEN) / (2 * ATTENTION_WEIGHTS + MLP_WEIGHTS)


def test_a_prompt_s_chunk_computes_every_row_and_no_logits() -> None:
    work, decoder = _work(LayerSpec(FULL, MLP, NORM), LayerSpec(WINDOW, MLP, NORM))
    step = work.of(StepPlan([_item(8, 4, needs_logits=False)]))
    seen = sum(range(9, 13)) + 4 * 5
    last = decoder.layers[1]
    assert step.read_bytes == num_bytes([decoder.layers]) - num_bytes([last.mlp, last.mlp_norm]) + 20 * KV_BYTES
    assert step.write_bytes == 4 * 2 * KV_BYTES
    assert step.flops == 4 * 2 * (2 * ATTENTION_WEIGHTS + MLP_WEIGHTS) + seen * SEEN_FLOPS


def test_beyond_the_chosen_positions_an_indexer_alone_reads_more() -> None:
    config = deepseek_v32()
    work, decoder = _work_of(described(config)[1])
    steps = [work.of(StepPlan([_item(length, 1)])) for length in (40, 41)]

    indexers = [spec.indexer for spec in decoder.spec.attention_specs if spec.indexer is not None]
    assert len(indexers) == config.num_hidden_layers
    assert steps[1].read_bytes - steps[0].read_bytes == sum(2 * each.head_dim for each in indexers)
    assert steps[1].flops - steps[0].flops == sum(2 * each.num_heads * each.head_dim for each in indexers)


# With experts in layers that read earlier ones' keys and values; inputs of layers; several streams; a projection of
# embeddings; attention beside a recurrence, layers of one sublayer, experts after windows.
CALLED: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma4": lambda: gemma4(
        enable_moe_block=True, num_experts=5, top_k_experts=2, moe_intermediate_size=48, use_double_wide_mlp=True
    ),
    **{
        name: ALL_VARIANTS[name]
        for name in ("gemma3n", "opt-350m", "falcon-h1", "nemotron-h-latent-experts", "mimo-v2")
    },
}


@pytest.mark.parametrize(("start", "num_new"), [(0, 23), (23, 1)])
@pytest.mark.parametrize("name", CALLED)
def test_operations_are_those_of_the_calls(name: str, start: int, num_new: int, tmp_path: Path) -> None:
    save_model(random_model(CALLED[name]()), tmp_path)
    decoder = load_folder(tmp_path, backend=ReferenceAttention(), ops=Operations())
    run, sequence = PagedRun(decoder), PagedSequence()
    tokens = list(range(start + num_new))
    if start:
        run.step([(sequence, tokens[:start])])
    counted = 0

    def count(linear: Linear, args: tuple[torch.Tensor, ...], _: object) -> None:
        nonlocal counted
        counted += linear_cost(linear, args[0]).flops

    class Counting(ReferenceAttention):
        def forward(self, *args: Any, **options: Any) -> torch.Tensor:
            nonlocal counted
            counted += attention_cost(*args, **options).flops
            return super().forward(*args, **options)

    for module in decoder.modules():
        if isinstance(module, Linear):
            module.register_forward_hook(count)
        elif isinstance(module, MoE):
            counted += 2 * module.router.weight.numel() * (1 if module in late_experts(decoder) else num_new)
        elif isinstance(module, Attention | SharedAttention):
            module.backend = Counting()
    batch = run.batch([(sequence, tokens[start:])])
    with torch.inference_mode():
        decoder.logits(decoder(batch, run.kv, torch.tensor([num_new - 1])))

    work = model_work(as_loaded(decoder))
    assert work is not None
    assert work.of(StepPlan([_item(start, num_new)])).flops == counted


def late_experts(decoder: Decoder) -> list[MoE]:
    """The experts that compute rows with logits alone."""
    first = min(decoder.num_caching, len(decoder.layers) - 1)
    return [module for module in decoder.layers[first:].modules() if isinstance(module, MoE)]


def test_weights_that_only_output_rows_need_are_read_for_these() -> None:
    """Experts of layers that read an earlier layer's keys and values, and what makes the inputs of layers."""
    config = CALLED["gemma4"]()
    work, decoder = _work_of(described(config)[1])
    first, inputs = decoder.num_caching, decoder.layer_inputs
    assert first == 2
    assert inputs is not None
    prompt, last = (work.of(StepPlan([_item(0, 4, needs_logits=needs)])) for needs in (False, True))

    def read(layers: nn.Module, num_rows: int) -> float:
        idle = [ExpertSizes(5, 2, num_bytes([moe.experts[0]])) for moe in layers.modules() if isinstance(moe, MoE)]
        whole = num_bytes([layers]) - sum(num_bytes([moe.experts]) for moe in layers.modules() if isinstance(moe, MoE))
        return whole + sum(each.read_bytes(num_rows) for each in idle)

    kv_bytes = [layout.position_bytes for layout in decoder.cache_layout.layers if isinstance(layout, KVLayout)]
    early = read(decoder.layers[:first], 4) + num_bytes([inputs.project, inputs.norm])
    late = read(decoder.layers[first:], 1) + num_bytes([decoder.head])
    assert prompt.read_bytes == round(early + 4 * sum(kv_bytes))
    assert last.read_bytes == round(early + late + 2 * 4 * sum(kv_bytes))
    assert prompt.write_bytes == last.write_bytes == 4 * sum(kv_bytes)


def test_a_draft_has_logits_for_each_of_its_rows() -> None:
    work, _ = _work(LayerSpec(FULL, MLP, NORM))
    plain, drafted = (work.of(StepPlan([_item(20, 4, num_draft=num)])) for num in (0, 3))
    assert drafted.flops - plain.flops == 3 * 2 * (VOCAB * HIDDEN + MLP_WEIGHTS)
    assert drafted.read_bytes == plain.read_bytes


def test_experts_are_read_as_even_routing_would_choose_them() -> None:
    work, decoder = _work(LayerSpec(FULL, EXPERTS, NORM))
    one = num_bytes([decoder.layers[0].mlp.experts[0]])
    assert one == 2 * MLP_WEIGHTS
    dense = num_bytes([decoder.layers, decoder.head]) - 8 * one
    assert work.of(StepPlan([_item(0, 1)])).read_bytes == dense + 2 * one + KV_BYTES
    many = work.of(StepPlan([_item(0, 500, num_draft=499)]))
    assert many.read_bytes == pytest.approx(dense + 8 * one + 500 * KV_BYTES, rel=1e-6)
    flops = work.of(StepPlan([_item(0, 1)])).flops
    assert flops == 2 * (ATTENTION_WEIGHTS + 2 * MLP_WEIGHTS + 8 * HIDDEN + VOCAB * HIDDEN) + SEEN_FLOPS


def test_the_expected_number_of_experts_is_that_of_draws() -> None:
    draw = random.Random(0)
    experts = ExpertSizes(num_experts=16, num_chosen=3, num_bytes=1)
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
