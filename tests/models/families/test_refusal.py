"""Refusals: what a model has that is not supported, what would run it, and what is like it."""

import json
import re
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file
from transformers import DeepseekV4Config, HeliumConfig, PretrainedConfig, Qwen3MoeConfig

from models.config.hf_config import HFConfig
from models.errors import ModelError, UnsupportedModelError
from models.families.refusal import refused
from models.families.registry import architecture_of_gguf
from models.loading.open import check_config, open_model
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import SMALL
from tests.models.families.deepseek_v32_variants import glm_moe_dsa
from tests.models.families.state_space_variants import granite_hybrid


def folder(path: Path, config: PretrainedConfig, architecture: str, **changes: object) -> ModelFiles:
    fields = {**config.to_dict(), "architectures": [architecture], **changes}
    (path / "config.json").write_text(json.dumps(fields))
    return ModelFiles(path, (), "m")


def gguf_file(path: Path, architecture: str, names: list[str]) -> ModelFiles:
    writer = GGUFWriter(str(path / "m.gguf"), architecture)
    for name in names:
        writer.add_tensor(name, torch.ones(4, 4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles(None, (path / "m.gguf",), "m")


def test_deepseek_v4_is_refused_by_name_with_what_it_has(tmp_path: Path) -> None:
    files = folder(tmp_path, DeepseekV4Config(), "DeepseekV4ForCausalLM")

    with pytest.raises(
        UnsupportedModelError, match=r"'DeepseekV4ForCausalLM' is not supported.*it has .*hyper-connections"
    ):
        check_config(files, {})


def test_layers_with_a_part_are_named_if_the_weights_are_here(tmp_path: Path) -> None:
    files = folder(tmp_path, Qwen3MoeConfig(**SMALL), "QwenNewForCausalLM", hc_mult=4)
    tensors = {f"model.layers.{layer}.attn_hc.fn": torch.ones(1) for layer in (2, 3, 4, 7)}
    save_file({**tensors, "model.embed_tokens.weight": torch.ones(1)}, tmp_path / "model.safetensors")

    with pytest.raises(UnsupportedModelError, match=r"it has layers 2-4, 7 with hyper-connections"):
        check_config(files, {}, use_transformers=False)


def test_nearest_by_structure_knows_the_settings() -> None:
    fields = {**Qwen3MoeConfig(**SMALL).to_dict(), "architectures": ["QwenNewForCausalLM"]}

    same, more = (str(refused(HFConfig({**fields, **own}, "config.json"))) for own in ({}, {"new_scale": 2.0}))

    assert "nearest by structure is Qwen3MoeForCausalLM, which knows" in same
    assert ", and not new_scale" in more
    assert "new_scale" not in same


def test_model_that_transformers_would_run_says_so(tmp_path: Path) -> None:
    helium = HeliumConfig(**SMALL | {"head_dim": 16})

    with pytest.raises(UnsupportedModelError, match="transformers' code would run it: leave --model-impl at auto"):
        check_config(folder(tmp_path, helium, "HeliumForCausalLM"), {}, use_transformers=False)
    quantized = folder(tmp_path, helium, "HeliumForCausalLM", quantization_config={"quant_method": "hqq"})
    with pytest.raises(UnsupportedModelError, match=r"weights quantized by 'hqq' are not supported"):
        check_config(quantized, {})


def test_refusal_through_transformers_names_the_family(tmp_path: Path) -> None:
    files = folder(tmp_path, glm_moe_dsa(), "GlmMoeDsaForCausalLM")

    with pytest.raises(UnsupportedModelError, match=r"leave --model-impl at auto: headrace has a family for it$"):
        check_config(files, {}, use_transformers=True)


def test_refusal_ends_with_a_remedy() -> None:
    fields = {**Qwen3MoeConfig(**SMALL).to_dict(), "architectures": ["FooBar"]}

    same = str(refused(HFConfig(fields, "config.json")))
    more = str(refused(HFConfig({**fields, "new_scale": 2.0}, "config.json")))
    other = str(refused(HFConfig(fields, "config.json"), tensors=["model.layers.0.odd.weight"]))

    assert 'set "architectures" to ["Qwen3MoeForCausalLM"] in a copy' in same
    end = "docs/models.md lists all that are; a model of another architecture does not run under one of their names"
    assert more.endswith(end)
    assert other.endswith(end)


def test_settings_of_kernels_of_transformers_are_not_unknown() -> None:
    fields = {**granite_hybrid().to_dict(), "architectures": ["FooBar"], "mamba_chunk_size": 256}

    message = str(refused(HFConfig(fields, "config.json")))

    assert "nearest by structure is GraniteMoeHybridForCausalLM, which knows all" in message
    assert "selective scans" not in message


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("LlamaForCausalLMEagle3", "a draft head"),
        ("DFlashDraftModel", "a draft head"),
        ("Gemma4AssistantForCausalLM", "a draft head"),
        ("ClefModel", "a model of decisions"),
    ],
)
def test_class_that_is_no_language_model_is_called_what_it_is(tmp_path: Path, architecture: str, what: str) -> None:
    files = folder(tmp_path, Qwen3MoeConfig(**SMALL), architecture)

    with pytest.raises(UnsupportedModelError, match=f"describes '{architecture}': {what}"):
        check_config(files, {})


@pytest.mark.parametrize(
    ("architecture", "tensor", "what"),
    [
        ("clip", "v.patch_embd.weight", "a projector of images or audio"),
        ("eagle3", "blk.0.attn_q.weight", "a draft head"),
        ("dflash", "blk.0.attn_q.weight", "a draft head"),
        ("gemma4-assistant", "blk.0.attn_q.weight", "a draft head"),
        ("clef", "dec.blk.0.attn_q.weight", "a model of decisions"),
        ("qwen35", "blk.24.nextn.eh_proj.weight", "layers for multi-token prediction alone"),
    ],
)
def test_file_that_is_no_language_model_is_called_what_it_is(
    tmp_path: Path, architecture: str, tensor: str, what: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"\(architecture '{architecture}'\) is {what}"):
        open_model(gguf_file(tmp_path, architecture, [tensor]))


def test_gguf_file_names_what_its_nearest_does_not_know(tmp_path: Path) -> None:
    parts = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_q_norm", "attn_k_norm", "attn_output", "hc_attn_fn"]
    names = [f"blk.{layer}.{part}.weight" for layer in range(3) for part in parts]

    with pytest.raises(UnsupportedModelError) as caught:
        open_model(gguf_file(tmp_path, "qwen3new", [*names, "token_embd.weight"]))

    message = str(caught.value)
    assert "GGUF architecture 'qwen3new' is not supported; it has layers 0-2 with hyper-connections" in message
    assert "nearest by structure is qwen3, which knows 8 of its 9 kinds of tensors, and not blk.*.hc_attn_fn" in message


def test_every_name_of_an_architecture_is_offered_as_nearest() -> None:
    with pytest.raises(UnsupportedModelError, match="nearest by name are nemotron_h_moe"):
        architecture_of_gguf("nemotron_h_moe2", {})


def test_gguf_file_of_a_class_of_transformers_names_it(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="transformers has HeliumForCausalLM, whose code may run"):
        open_model(gguf_file(tmp_path, "helium", ["token_embd.weight"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index_topk": 0}, "index_topk is 0; it must be an integer from 1"),
        ({"index_head_dim": 8}, "index_head_dim is 8; it must be an integer from 16"),
        ({"q_lora_rank": None}, "has no 'q_lora_rank'"),
        ({"indexer_types": ["full", "half"]}, "layer 1 of indexer_types is 'half'; known are 'full', 'shared'"),
        ({"indexer_types": ["shared", "full"]}, "the first of indexer_types is 'shared'; it must be 'full'"),
        ({"indexer_types": None, "index_topk_pattern": "F"}, "indexer_types lists 1 layers; the model has 2"),
        (
            {"layer_types": ["full_attention"] * 2},
            "layer 0 of layer_types is 'full_attention'; known are 'indexed_attention'",
        ),
        ({"layer_types": ["indexed_attention"]}, "layer_types lists 1 layers; the model has 2"),
    ],
)
def test_an_indexer_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        check_config(folder(tmp_path, glm_moe_dsa(), "GlmMoeDsaForCausalLM", **changes), {})
