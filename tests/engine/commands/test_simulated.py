"""The sizes of a model on a card, from its configuration, and the parts of a measured step."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from engine.commands.bench.phases import Phase
from engine.commands.bench.roofline import PhaseResult, RooflineResult
from engine.commands.simulated import _measured_step, _roofline_config, model_on_card
from engine.config import EngineConfig, LoadFormat, Quantization
from engine.errors import OptionError, StartupError
from engine.scheduling.kv.groups import KVGroup
from engine.simulation.costs import CARDS
from models.errors import CheckpointError
from tests.helpers.fake_client import engine_info

VOCAB, HIDDEN, INNER, LAYERS = 64, 32, 48, 2


@pytest.fixture
def config(tmp_path: Path) -> EngineConfig:
    """Options for a model of which there is a configuration alone."""
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    ).save_pretrained(tmp_path)
    return EngineConfig(model=str(tmp_path), load_format=LoadFormat.DUMMY)


def test_a_model_on_a_card_has_its_weights_and_the_rest_for_its_cache(config: EngineConfig) -> None:
    card = dataclasses.replace(CARDS["h100"], memory_bytes=10_000_000)
    model = model_on_card(dataclasses.replace(config, max_num_seqs=1 << 20), card)
    attention = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN // 2
    weights = LAYERS * (attention + 3 * HIDDEN * INNER) + 2 * VOCAB * HIDDEN
    assert weights * 2 <= model.weight_bytes <= weights * 2 + 4 * HIDDEN * (2 * LAYERS + 1)  # norms, in fp32 at most
    assert model.work.written_per_row == LAYERS * 2 * HIDDEN // 2 * 2
    assert model.num_blocks == (9_200_000 - model.weight_bytes) // (16 * model.work.written_per_row)
    assert (model.hardware, model.origin, model.is_gpu) == ("h100", "published", True)


def test_a_card_that_the_weights_do_not_fit_is_refused(config: EngineConfig) -> None:
    card = dataclasses.replace(CARDS["l4"], memory_bytes=1000)
    with pytest.raises(StartupError, match="choose a smaller model or a larger card"):
        model_on_card(config, card)


def test_quantizing_for_a_card_is_refused(config: EngineConfig) -> None:
    with pytest.raises(OptionError, match="--quantization is int8; on a card"):
        model_on_card(dataclasses.replace(config, quantization=Quantization.INT8), CARDS["l4"])


def test_a_model_that_is_not_here_is_refused() -> None:
    with pytest.raises(StartupError, match="fetch it first: headrace pull some/model"):
        model_on_card(EngineConfig(model="some/model"), CARDS["l4"])


REQUIRED = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": VOCAB,
    "hidden_act": "silu",
}


def test_the_documented_fields_of_a_configuration_are_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REQUIRED))
    model = model_on_card(EngineConfig(model=str(tmp_path), load_format=LoadFormat.DUMMY), CARDS["l4"])
    assert model.work.written_per_row == LAYERS * 2 * HIDDEN * 2
    assert model.max_model_len == 2048


@pytest.mark.parametrize("name", REQUIRED)
def test_a_documented_field_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({each: REQUIRED[each] for each in REQUIRED if each != name}))
    with pytest.raises(CheckpointError, match=name):
        model_on_card(EngineConfig(model=str(tmp_path), load_format=LoadFormat.DUMMY), CARDS["l4"])


def test_the_parts_of_a_measured_step_add_up_to_its_time_without_clocks() -> None:
    phases = [
        PhaseResult(Phase.LINEARS, 6.0, 10.0, 20.0, 1.0),
        PhaseResult(Phase.ATTENTION, 2.0, 30.0, 40.0, 1.0),
        PhaseResult(Phase.SAMPLING, 4.0, 0.0, 0.0, None),
    ]
    step = _measured_step(RooflineResult("decode of 3", 3, 6.0, 1.0, 2.0, phases), 3)
    assert (step.rows_s, step.attention_s, step.sequences_s) == pytest.approx((3e-3, 1e-3, 2e-3))
    assert (step.attention_bytes, step.attention_flops, step.num_sequences) == (30.0, 40.0, 3)


@pytest.mark.parametrize(
    ("longest", "num_blocks", "prefills", "batches"),
    [
        (4096, 10_000, (128, 512, 2048), (1, 2, 4, 8, 16, 32, 64)),
        (600, 10_000, (128, 512), (1, 2, 4, 8, 16, 32, 64)),
        (100, 10_000, (99,), (1,)),
        (4096, 300, (128, 512, 2048), (1, 2, 4)),
    ],
)
def test_measured_lengths_and_batches_fit_the_engine(
    longest: int, num_blocks: int, prefills: tuple[int, ...], batches: tuple[int, ...]
) -> None:
    info = engine_info(max_model_len=longest, num_blocks=num_blocks, max_num_seqs=64)
    config = _roofline_config(info, (KVGroup(16),))
    assert (config.prefill_len, config.batch_size) == (prefills, batches)
