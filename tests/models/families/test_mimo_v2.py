"""MiMo-V2-Flash's configuration: the spelling of the first checkpoint, and what is refused; MiMo-V2.5's fused qkv."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.errors import CheckpointError
from models.families.mimo_v2 import describe
from tests.helpers.checkpoints import load_folder, random_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.mimo_v2_variants import MIMO_V2_VARIANTS, mimo_v2
from tests.models.families.test_parity import random_prompts, truth

# As XiaomiMiMo/MiMo-V2-Flash has it in place of transformers' fields.
FIRST_SPELLING = {
    "hybrid_layer_pattern": [0, 1, 1],
    "moe_layer_freq": [0, 1, 1],
    "sliding_window": 5,
    "sliding_window_size": 5,
    "swa_num_key_value_heads": 2,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "rope_theta": 5_000_000,
    "swa_rope_theta": 10_000,
    "partial_rotary_factor": 0.334,
    "n_shared_experts": None,
    "routed_scaling_factor": None,
}


def described(**changes: object) -> DecoderSpec:
    return describe(HFConfig({**mimo_v2().to_dict(), **changes}, "config.json"))


def test_both_spellings_describe_one_model() -> None:
    transformers_alone = dict.fromkeys(("layer_types", "mlp_layer_types", "rope_parameters"))
    assert described(**transformers_alone, **FIRST_SPELLING) == described()


def test_layers_are_full_at_first_and_in_every_sixth_place_by_default() -> None:
    layers = described(layer_types=None, num_hidden_layers=12, mlp_layer_types=None).layers
    assert [index for index, layer in enumerate(layers) if layer.attention.sliding_window is None] == [0, 5, 11]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swa_num_key_value_heads": 3}, "swa_num_key_value_heads 3 does not divide num_attention_heads 4; fetch"),
        (
            {"layer_types": ["full_attention"] * 2 + ["linear_attention"]},
            "layer 2 .* is 'linear_attention'",
        ),
        ({"layer_types": None, "hybrid_layer_pattern": [0, 1]}, "lists 2 layers; the model has 3"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        described(**changes)


@pytest.mark.parametrize("variant", MIMO_V2_VARIANTS)
def test_fused_matrices_of_a_multimodal_checkpoint_are_what_their_parts_are(tmp_path: Path, variant: str) -> None:
    (prompt,) = random_prompts((20,))
    model = random_model(MIMO_V2_VARIANTS[variant]())
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    changed = {"architectures": ["MiMoV2ForCausalLM"], "attention_projection_layout": "fused_qkv", "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(fields | changed))
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        tensors[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
    left_out = ("visual.merger.weight", "audio_encoder.projection.weight", "speech_embeddings.0.weight")
    tensors |= dict.fromkeys((*left_out, "model.mtp.layers.0.self_attn.qkv_proj.weight"), torch.ones(2))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")

    logits = PagedRun(load_folder(tmp_path)).step([(PagedSequence(), prompt)])[0]

    torch.testing.assert_close(logits, truth(model, prompt), rtol=0.0, atol=1e-4)
