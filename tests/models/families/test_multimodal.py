"""Multimodal checkpoints: which of their fields and tensors are the language model's."""

from pathlib import Path

import pytest

from models.config.hf_config import HFConfig
from models.families.name_map import NameMap
from models.families.registry import family_of
from tests.helpers.checkpoints import VOCAB_SIZE, random_model
from tests.models.families.multimodal_variants import MULTIMODAL_VARIANTS
from tests.models.loading.test_load import load, save_tokenizer

MULTIMODAL = ("Gemma3ForConditionalGeneration", "Llama4ForConditionalGeneration", "Mistral3ForConditionalGeneration")


@pytest.mark.parametrize("architecture", MULTIMODAL)
@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_language_model_is_found_under_old_and_new_names(architecture: str, prefix: str) -> None:
    names = NameMap(family_of(architecture).names)

    (destination,) = names.destinations(f"{prefix}layers.3.self_attn.q_proj.weight")

    assert (destination.module, destination.shard) == ("layers.3.attn.qkv", "q")


@pytest.mark.parametrize("architecture", MULTIMODAL)
@pytest.mark.parametrize(
    "name", ["vision_tower.encoder.layers.1.q.weight", "model.vision_tower.x.y", "multi_modal_projector.mm.weight"]
)
def test_vision_tensors_are_ignored(architecture: str, name: str) -> None:
    names = NameMap(family_of(architecture).names)

    assert names.is_ignored(name)
    assert not names.is_ignored("audio_tower.layers.0.weight")


def test_gemma3_fields_that_the_hub_s_files_leave_out_have_their_usual_values() -> None:
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = HFConfig({"architectures": [MULTIMODAL[0]], "text_config": text}, "config.json")

    family = family_of(MULTIMODAL[0])

    spec = family.describe(family.text_config(config))

    assert (len(spec.layers), spec.vocab_size, spec.max_position, spec.has_tied_head) == (34, 262208, 131072, True)
    attention = spec.layers[0].attention
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (8, 4, 256)
    assert [layer.attention.sliding_window for layer in spec.layers[:6]] == [1024] * 5 + [None]


def test_operator_is_told_that_only_text_is_served(tmp_path: Path) -> None:
    random_model(MULTIMODAL_VARIANTS["gemma3-multimodal"]()).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, size=VOCAB_SIZE)

    notes = load(tmp_path).notes

    assert "Text only" in notes[0]
