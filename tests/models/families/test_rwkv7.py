"""RWKV-7: names of published checkpoints, and configurations that are refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.architecture.decoder import DecoderSpec
from models.batch import StateGroupBatch
from models.config.hf_config import HFConfig
from models.errors import CheckpointError, ModelError, UnsupportedModelError
from models.families import rwkv7 as family
from tests.helpers.checkpoints import load_folder, random_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.rwkv7_variants import rwkv7

PROMPT = list(range(5, 25))


def spec_of(**changes: Any) -> DecoderSpec:
    return family.describe(HFConfig({**rwkv7().to_dict(), **changes}, "config.json"))


def test_sizes_may_be_stated_in_several_ways() -> None:
    spec = spec_of()

    assert spec_of(head_dim=None, num_heads=4) == spec
    assert spec_of(intermediate_size=256) == spec
    assert spec_of(value_dim=[64, 64, 64], attn=None, hidden_act="relu2") == spec
    assert spec_of(hidden_ratio=3).layers[0].mlp.intermediate_size == 192


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"head_dim": 48}, CheckpointError, "hidden_size 64 is not a multiple of head_dim 48"),
        ({"head_dim": None, "num_heads": 5}, CheckpointError, "hidden_size 64 is not a multiple of num_heads 5"),
        ({"decay_low_rank_dim": None}, CheckpointError, "no .decay_low_rank_dim.; fetch"),
        ({"hidden_act": "mish"}, UnsupportedModelError, "hidden_act is 'mish'; supported are"),
        ({"attn": {"layers": [1], "num_heads": 4}}, UnsupportedModelError, "attn .attention in some layers."),
        ({"value_dim": [64, 128, 64]}, UnsupportedModelError, "value_dim is .*; supported is hidden_size, 64"),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], error: type[ModelError], reason: str) -> None:
    with pytest.raises(error, match=f"^config.json.* {reason}"):
        spec_of(**changes)


def test_first_checkpoints_have_all_mixtures_in_one_tensor_and_values_of_the_first_layer(tmp_path: Path) -> None:
    random_model(rwkv7()).save_pretrained(tmp_path)
    expected = logits_of(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(3):
        names = [f"model.layers.{layer}.attn.x_{part}" for part in "rwkvag"]
        tensors[f"model.layers.{layer}.attn.x_x"] = torch.stack([tensors.pop(name) for name in names])
    tensors["model.layers.0.attn.v_lora.lora.0.weight"] = torch.ones(16, 64)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})

    assert torch.equal(logits_of(tmp_path), expected)


def test_accepted_rows_of_a_draft_advance_all_states(tmp_path: Path) -> None:
    random_model(rwkv7()).save_pretrained(tmp_path)
    decoder = load_folder(tmp_path)
    expected = PagedRun(decoder).step([(PagedSequence(), PROMPT)])[0]
    run, sequence = PagedRun(decoder, block_size=4), PagedSequence()
    run.step([(sequence, PROMPT[:6])])
    batch = run.batch([(sequence, [*PROMPT[6:9], 3, 4])])  # the last two are rejected
    (states,) = batch.groups
    assert isinstance(states, StateGroupBatch)
    draft = dataclasses.replace(
        states,
        targets=torch.full((5,), -1, dtype=torch.int32),
        target_blocks=(-1,) * 5,
        speculative_rows=torch.arange(5),
    )
    after = StateGroupBatch.from_blocks([3], states.source_blocks, [-1, *sequence.tables[0][1:]], run.device)

    with torch.inference_mode():
        decoder(dataclasses.replace(batch, groups=(draft,)), run.kv)
        decoder.commit_states(torch.arange(3), after, run.kv)
    sequence.num_computed = 9
    logits = run.step([(sequence, PROMPT[9:])])[0]

    torch.testing.assert_close(logits, expected[9:], rtol=0.0, atol=1e-5)


def logits_of(folder: Path) -> torch.Tensor:
    return PagedRun(load_folder(folder)).step([(PagedSequence(), PROMPT)])[0]
