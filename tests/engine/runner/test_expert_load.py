"""Counts of the rows that experts compute, from the layers to a step's stats."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import MixtralConfig

from engine.config import Device, EngineConfig
from engine.runner.runner import ExpertLoad
from engine.startup.build import build_engine
from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec, MoESpec, RouterScore, RouterSpec
from models.architecture.layer import LayerSpec
from models.architecture.norm import NormKind, NormSpec
from models.decoder import Decoder
from tests.helpers.checkpoints import SMALL, VOCAB_SIZE, cpu_compute, random_model
from tests.helpers.engines import make_request
from tests.helpers.paged import PagedRun, PagedSequence

MLP = MLPSpec(16, Activation.SILU, is_gated=True)
NORM = NormSpec(NormKind.RMS, 1e-6)


def layer(mlp: MLPSpec | MoESpec) -> LayerSpec:
    return LayerSpec(AttentionSpec(2, 2, 16, 0.25), mlp, NORM)


def experts(count: int, chosen: int) -> MoESpec:
    return MoESpec(count, MLP, RouterSpec(RouterScore.SOFTMAX, chosen, renormalizes=True))


def random_decoder(*layers: LayerSpec) -> Decoder:
    spec = DecoderSpec(50, 32, 64, layers, NORM, has_tied_head=True)
    decoder = Decoder(spec, cpu_compute())
    decoder.allocate(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in decoder.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return decoder


def test_layers_of_different_numbers_of_experts_are_counted_together() -> None:
    decoder = random_decoder(layer(experts(3, 1)), layer(MLP), layer(experts(5, 2)))
    load = ExpertLoad(decoder)

    PagedRun(decoder).step([(PagedSequence(), list(range(10)))])
    rows, imbalance = load.take()

    assert len(rows) == 5
    assert sum(rows) == 10 * (1 + 2)
    assert imbalance is not None
    assert 1.0 <= imbalance <= 5.0
    assert decoder.take_rows_per_expert().sum() == 0


def test_imbalance_is_of_each_layer() -> None:
    decoder = random_decoder(layer(experts(4, 1)), layer(experts(4, 1)))
    load = ExpertLoad(decoder)
    decoder.layers[0].mlp.rows_per_expert += torch.tensor([8, 0, 0, 0])
    decoder.layers[1].mlp.rows_per_expert += torch.tensor([0, 4, 2, 2])  # in sum with the other layer nearly even

    rows, imbalance = load.take()

    assert (rows, imbalance) == ([8, 4, 2, 2], (4.0 + 2.0) / 2)


def test_dense_model_has_no_load() -> None:
    assert ExpertLoad(random_decoder(layer(MLP))).take() == ([], None)


def test_steps_report_the_load_without_the_warm_up(tmp_path: Path) -> None:
    config = {**SMALL, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2}
    random_model(MixtralConfig(**config)).save_pretrained(tmp_path)
    words = {f"w{index}": index for index in range(VOCAB_SIZE)}
    Tokenizer(WordLevel(words, "w0")).save(str(tmp_path / "tokenizer.json"))
    options = EngineConfig(model=str(tmp_path), device=Device.CPU, threads=1, kv_cache_memory_bytes=1 << 20)
    engine, _ = build_engine(options, lambda *_: None)

    engine.add(make_request("a", list(range(20)), max_tokens=2, ignore_eos=True))
    stats = [engine.step().stats for _ in range(2)]

    assert [sum(step.expert_rows) for step in stats] == [20 * 2 * 2, 1 * 2 * 2]  # rows, chosen, layers
    assert all(step.expert_imbalance >= 1.0 for step in stats)


def test_an_expert_computes_all_its_rows_at_once() -> None:
    decoder = random_decoder(layer(experts(4, 2)))
    calls: list[int] = []
    for expert in decoder.layers[0].mlp.experts:
        expert.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))

    PagedRun(decoder).step([(PagedSequence(), list(range(20))), (PagedSequence(), [3, 4, 5])])

    assert len(calls) <= 4
    assert sum(calls) == 23 * 2
