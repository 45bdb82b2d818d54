"""Multimodal checkpoints: which of their fields and tensors are the language model's."""

import copy
import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from models.config.hf_config import HFConfig
from models.errors import CheckpointError, UnsupportedModelError
from models.families.multimodal import find_family
from models.families.name_map import NameMap
from models.families.registry import MULTIMODAL
from tests.helpers.checkpoints import SMALL, VOCAB_SIZE, load_folder, qwen2_config, random_model, save_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.multimodal_models import MULTIMODAL_MODELS, SPARSE, WITH_SPEECH, WITH_TIMM
from tests.models.families.multimodal_variants import AXES, MULTIMODAL_VARIANTS
from tests.models.families.recurrent_variants import qwen35
from tests.models.families.test_parity import random_prompts, truth
from tests.models.loading.test_load import load, save_tokenizer

(PROMPT,) = random_prompts((20,))
# Types whose classes of transformers, in some versions, give logits without the language model's scale.
UNSCALED = ("aya_vision", "cohere2_vision", "granite_speech", "granite_speech_plus")
ALSO_KNOWN_AS = {
    "DeepseekOCR2ForCausalLM": "DeepseekOcr2ForConditionalGeneration",
    "DeepseekOCRForCausalLM": "DeepseekOcr2ForConditionalGeneration",
    "KimiK25ForConditionalGeneration": "Kimi_K25ForConditionalGeneration",
}


def logits_of(folder: Path) -> torch.Tensor:
    return PagedRun(load_folder(folder)).step([(PagedSequence(), PROMPT)])[0]


def check(folder: Path, expected: torch.Tensor) -> None:
    torch.testing.assert_close(logits_of(folder), expected, rtol=0.0, atol=1e-4)


def saved(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    model = random_model(config)
    save_model(model, folder)
    return model


def change_config(folder: Path, **changes: object) -> None:
    """Change fields of config.json; None removes one."""
    path = folder / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def rename_tensors(folder: Path, **prefixes: str) -> None:
    """Replace the first part of tensors' names."""
    path = folder / "model.safetensors"
    parts = {name: name.partition(".") for name in load_file(path)}
    named = {prefixes.get(first, first) + dot + rest: name for name, (first, dot, rest) in parts.items()}
    tensors = load_file(path)
    save_file({new: tensors[name] for new, name in named.items()}, path, {"format": "pt"})


@pytest.mark.parametrize("architecture", [*MULTIMODAL_MODELS, *ALSO_KNOWN_AS])
def test_text_has_the_logits_of_transformers_class(architecture: str, tmp_path: Path) -> None:
    model = saved(tmp_path, MULTIMODAL_MODELS[ALSO_KNOWN_AS.get(architecture, architecture)]())
    change_config(tmp_path, architectures=[architecture])
    scale = 1.0
    code = inspect.getsource(type(model).forward)
    if model.config.model_type in UNSCALED and not any(name in code for name in ("logit_scale", "logits_scaling")):
        text = model.config.get_text_config()
        scale = getattr(text, "logit_scale", 1.0) / getattr(text, "logits_scaling", 1.0)

    check(tmp_path, truth(model, PROMPT) * scale)


@pytest.mark.parametrize("architecture", WITH_SPEECH)
def test_thinker_within_a_model_that_speaks(architecture: str, tmp_path: Path) -> None:
    thinker = architecture.replace("ForConditionalGeneration", "ThinkerForConditionalGeneration")
    model = saved(tmp_path, MULTIMODAL_MODELS[thinker]())
    config = {"architectures": [architecture], "thinker_config": model.config.to_dict(), "talker_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    talker = {"talker.model.embed_tokens.weight": torch.ones(2, 2)}
    save_file(
        {**{f"thinker.{name}": tensor for name, tensor in tensors.items()}, **talker}, tmp_path / "model.safetensors"
    )

    check(tmp_path, truth(model, PROMPT))


@pytest.mark.parametrize("architecture", WITH_TIMM)
def test_language_model_under_the_names_of_a_whole_that_cannot_be_made_here(architecture: str, tmp_path: Path) -> None:
    model = saved(tmp_path, WITH_TIMM[architecture]())
    config = {"architectures": [architecture], "text_config": model.config.to_dict(), "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    rename_tensors(tmp_path, model="model.language_model")

    check(tmp_path, truth(model, PROMPT))


def test_every_multimodal_class_is_compared() -> None:
    in_test_mimo_v2 = {"MiMoV2ForCausalLM"}
    assert MULTIMODAL.keys() == {*MULTIMODAL_MODELS, *ALSO_KNOWN_AS, *WITH_SPEECH, *WITH_TIMM, *in_test_mimo_v2}


# --- names -----------------------------------------------------------------------------------------------------------


def names_of(architecture: str) -> NameMap:
    family, _ = find_family(HFConfig({"architectures": [architecture]}, "config.json"))
    return NameMap(family.names)


@pytest.mark.parametrize("architecture", MULTIMODAL)
@pytest.mark.parametrize("prefix", ["model.", "language_model.model.", "model.language_model.", "model.text_model."])
def test_language_model_is_found_under_old_and_new_names(architecture: str, prefix: str) -> None:
    name = "embeddings" if architecture.startswith("NemotronH") else "embed_tokens"
    (destination,) = names_of(architecture).destinations(f"{prefix}{name}.weight")

    assert destination.module == "embed"


@pytest.mark.parametrize("architecture", MULTIMODAL)
@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.encoder.layers.1.q.weight",
        "model.vision_tower.x.y",
        "multi_modal_projector.mm.weight",
        "visual.blocks.0.attn.qkv.weight",
        "model.audio_tower.layers.0.fc1.bias",
        "mtp.layers.0.mlp.down_proj.weight",
    ],
)
def test_encoders_and_drafting_layers_are_ignored(architecture: str, name: str) -> None:
    names = names_of(architecture)

    assert names.is_ignored(name)
    assert not names.is_ignored("model.some_tower.layers.0.weight")


# --- configurations --------------------------------------------------------------------------------------------------


def test_multimodal_class_may_have_a_flat_configuration(tmp_path: Path) -> None:
    model = saved(tmp_path, qwen2_config())
    change_config(tmp_path, architectures=["Qwen2_5_VLForConditionalGeneration"], model_type="qwen2_5_vl")

    check(tmp_path, truth(model, PROMPT))


def test_class_of_a_language_model_may_have_a_nested_configuration(tmp_path: Path) -> None:
    model = saved(tmp_path, MULTIMODAL_MODELS["Qwen3_5ForConditionalGeneration"]())
    change_config(tmp_path, architectures=["Qwen3_5ForCausalLM"])

    check(tmp_path, truth(model, PROMPT))


def test_class_of_a_language_model_may_have_the_names_of_the_whole(tmp_path: Path) -> None:
    model = saved(tmp_path, qwen35())
    rename_tensors(tmp_path, model="model.language_model")

    check(tmp_path, truth(model, PROMPT))


def test_old_files_of_qwen_vl_have_flat_configurations_and_names(tmp_path: Path) -> None:
    model = saved(tmp_path, MULTIMODAL_MODELS["Qwen2_5_VLForConditionalGeneration"]())
    text = model.config.text_config.to_dict()
    rope = {"rope_scaling": {"type": "mrope", "mrope_section": AXES["mrope_section"]}, "rope_theta": AXES["rope_theta"]}
    fields = {**text, **rope, "rope_parameters": None, "text_config": None, "tie_word_embeddings": False}
    change_config(tmp_path, **{**fields, "architectures": ["Qwen2_5_VLForConditionalGeneration"]})
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({name.replace("model.language_model.", "model."): tensors[name] for name in tensors}, path)

    check(tmp_path, truth(model, PROMPT))


def test_language_model_is_the_one_that_the_section_names(tmp_path: Path) -> None:
    config = MULTIMODAL_MODELS["LlavaForConditionalGeneration"]()
    model = saved(tmp_path, type(config)(text_config=qwen2_config().to_dict(), vision_config=config.vision_config))

    check(tmp_path, truth(model, PROMPT))


def test_published_nemotron_omni_has_names_and_a_section_of_its_own(tmp_path: Path) -> None:
    model = saved(tmp_path, MULTIMODAL_MODELS["NemotronH_Omni_Reasoning_V3"]())
    change_config(tmp_path, text_config=None, llm_config=model.config.text_config.to_dict())
    path = tmp_path / "model.safetensors"
    tensors = {
        name.replace("multi_modal_projector.linear_", "mlp1."): tensor for name, tensor in load_file(path).items()
    }
    body = ("language_model.model.", "language_model.backbone.")
    tensors = {name.replace(*body): tensor for name, tensor in tensors.items()}
    others = {name: torch.ones(2) for name in ("sound_encoder.encoder.x.weight", "sound_projection.norm.weight")}
    save_file(tensors | others, path, {"format": "pt"})

    check(tmp_path, truth(model, PROMPT))


def test_published_deepseek_ocr_has_a_flat_configuration(tmp_path: Path) -> None:
    model = saved(tmp_path, MULTIMODAL_MODELS["DeepseekOcr2ForConditionalGeneration"]())
    text = model.config.text_config.to_dict()
    fields = {**text, "first_k_dense_replace": 1, "mlp_layer_types": None, "text_config": None, "use_mla": False}
    change_config(tmp_path, **{**fields, "architectures": ["DeepseekOCRForCausalLM"], "model_type": "deepseek_vl_v2"})
    path = tmp_path / "model.safetensors"
    others = {name: torch.ones(2) for name in ("model.sam_model.x.bias", "model.view_seperator")}
    save_file(load_file(path) | others, path, {"format": "pt"})  # names are the published ones already

    check(tmp_path, truth(model, PROMPT))


def test_stacks_of_experts_may_have_outputs_last(tmp_path: Path) -> None:
    model = saved(tmp_path, MULTIMODAL_MODELS["Qwen3VLMoeForConditionalGeneration"]())
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    turned = {name: tensor.transpose(1, 2).contiguous() for name, tensor in tensors.items() if ".experts." in name}
    save_file({**tensors, **turned}, path)

    assert turned
    check(tmp_path, truth(model, PROMPT))


def test_language_model_without_a_family_is_refused_by_name() -> None:
    fields = {"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "bloom7"}}

    with pytest.raises(UnsupportedModelError, match="with the language model 'bloom7', which no family computes"):
        find_family(HFConfig(fields, "config.json"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([4, 2, 1], r"mrope_section is \[4, 2, 1\]; .* 8 rotated pairs"),
        ([4, -2, 6], "mrope_section is"),
        ("4, 2, 2", "mrope_section is"),
        ([], "mrope_section is"),
    ],
)
def test_axes_that_do_not_fill_a_head_are_refused(sections: object, message: str) -> None:
    rope = {**AXES, "mrope_section": sections}
    fields = {
        **SMALL,
        "hidden_act": "silu",
        "rope_parameters": rope,
        "architectures": ["Qwen2VLForConditionalGeneration"],
    }
    family, config = find_family(HFConfig(fields, "config.json"))

    with pytest.raises(CheckpointError, match=message):
        family.describe(config)


def test_axes_in_turn_may_have_more_pairs_than_a_head() -> None:
    rope = {**AXES, "mrope_section": [11, 11, 10], "mrope_interleaved": True}
    fields = {"hidden_act": "silu", "rope_parameters": rope, "architectures": ["Qwen3VLForConditionalGeneration"]}
    family, config = find_family(HFConfig({**SMALL, **fields}, "config.json"))

    assert family.describe(config).layers[0].rope is not None


def test_gemma3_fields_that_the_hub_s_files_leave_out_have_their_usual_values() -> None:
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    fields = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}

    family, config = find_family(HFConfig(fields, "config.json"))
    spec = family.describe(config)

    assert (len(spec.layers), spec.vocab_size, spec.max_position, spec.has_tied_head) == (34, 262208, 131072, True)
    attention = spec.layers[0].attention
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (8, 4, 256)
    assert [layer.attention.sliding_window for layer in spec.layers[:6]] == [1024] * 5 + [None]


@pytest.mark.parametrize("kind", ["mistral", "cohere2", "exaone4"])
def test_null_in_the_section_is_not_a_field_that_is_left_out(kind: str) -> None:
    text = {**SMALL, "model_type": kind, "hidden_act": "silu", "sliding_window": None}
    fields = {"architectures": ["LlavaForConditionalGeneration"], "text_config": text}

    family, config = find_family(HFConfig(fields, "config.json"))

    assert {layer.attention.sliding_window for layer in family.describe(config).layers} == {None}


@pytest.mark.parametrize("architecture", SPARSE)
def test_fields_that_a_section_leaves_out_have_transformers_defaults(architecture: str) -> None:
    section = SPARSE[architecture]
    whole = CONFIG_MAPPING[str(section["model_type"])](**copy.deepcopy(section)).to_dict()
    whole.pop("tie_word_embeddings", None)  # the object around the section says that
    ours, theirs = (
        find_family(HFConfig({"architectures": [architecture], "text_config": text}, "config.json"))
        for text in (section, {**whole, "architectures": section.get("architectures")})
    )

    assert ours[0].describe(ours[1]) == theirs[0].describe(theirs[1])


def test_operator_is_told_that_only_text_is_served(tmp_path: Path) -> None:
    random_model(MULTIMODAL_VARIANTS["gemma3-multimodal"]()).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, size=VOCAB_SIZE)

    notes = load(tmp_path).notes

    assert "Text only" in notes[0]
