"""Loading: tensors that do not fit are named before anything is read, and others are streamed into place."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from models.architecture.attention import AttentionSpec
from models.attention.cpu import CpuAttention
from models.attention.select import PREFERENCE, select_backend
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.generation import generation_defaults
from models.config.hf_config import read_json_config
from models.decoder import Decoder
from models.errors import CheckpointError, ModelError, SourceError, UnsupportedModelError
from models.families.llama import FAMILY
from models.kernels.cpu.library import required_library
from models.loading.assign import assign
from models.loading.load import LoadOptions, load_model, resolve_dtype
from models.loading.open import check_config
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import VOCAB_SIZE, cpu_compute, llama_config, random_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.quantized import copy_of, expected_of
from tests.models.families.deepseek_v32_variants import DEEPSEEK_V32_VARIANTS
from tests.models.families.state_space_variants import mamba

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LAYER = "model.layers.1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama checkpoint with a tokenizer."""
    random_model(llama_config()).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, size=VOCAB_SIZE)
    return tmp_path


def save_tokenizer(folder: Path, *, size: int) -> None:
    words = {f"w{index}": index for index in range(size)}
    Tokenizer(WordLevel(words, "w0")).save(str(folder / "tokenizer.json"))


def ignore_progress(stage: str, done: int, total: int, unit: str) -> None:
    """Ignore a progress report."""


def load(folder: Path, **changes: str):
    options = LoadOptions(**{"dtype": "float32", **changes})
    return load_model(ModelFiles(folder, (), "m"), options, ignore_progress)


def change_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Replace, add or (None) remove tensors of the checkpoint."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- names and shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{LAYER}.self_attn.k_proj.weight": None}, r"no tensor fills layers\.1\.attn\.qkv\.weight \(k\)"),
        ({"model.norm.weight": None}, r"no tensor fills norm\.weight"),
        ({"lm_head.weight": None}, r"no tensor fills head\.weight"),
        (
            {f"{LAYER}.self_attn.q_proj.bias": torch.zeros(64)},
            r"'model\.layers\.1\.self_attn\.q_proj\.bias' is not used",
        ),
        (
            {"model.layers.2.mlp.down_proj.weight": torch.zeros(64, 96)},
            r"layers\.2\.mlp\.down_proj\.weight' is not used",
        ),
        ({"visual.patch.weight": torch.zeros(4)}, r"'visual\.patch\.weight' is not used"),
        (
            {f"{LAYER}.self_attn.v_proj.weight": torch.zeros(64, 64)},
            r"v_proj\.weight' has shape \[64, 64\].*\[32, 64\]",
        ),
        ({f"{LAYER}.mlp.up_proj.weight": torch.zeros(96)}, r"up_proj\.weight' has shape \[96\].*\[96, 64\]"),
        (
            {"model.norm.weight": torch.zeros(64, dtype=torch.int8)},
            r"'model\.norm\.weight' is stored as I8, which is not",
        ),
        ({"model.embed_tokens.weight": torch.zeros(129, 64)}, r"embed_tokens\.weight' has shape \[129, 64\]"),
    ],
)
def test_tensor_that_does_not_fit_is_named(folder: Path, changes: dict[str, torch.Tensor | None], message: str) -> None:
    change_weights(folder, changes)

    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_many_misfits_are_counted(folder: Path) -> None:
    change_config(folder, num_hidden_layers=4)

    with pytest.raises(CheckpointError, match=r"no tensor fills layers\.2\.attn_norm\.weight.* and \d+ more"):
        load(folder)


def test_tensor_under_two_names_is_refused(folder: Path) -> None:
    rules = {**FAMILY.names, "copy.*": FAMILY.names["model.norm.*"]}
    change_weights(folder, {"copy.weight": torch.zeros(64)})
    spec = FAMILY.describe(read_json_config(folder / "config.json"))
    outline = Decoder(spec, cpu_compute())

    with pytest.raises(CheckpointError, match="repeats another tensor"):
        assign(outline, SafetensorsCheckpoint(folder), rules)


def test_stored_copy_of_a_tied_head_is_ignored(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)

    model = load(folder)

    assert model.decoder.head.weight is model.decoder.embed.weight


def test_old_rotary_buffers_are_ignored(folder: Path) -> None:
    change_weights(folder, {f"{LAYER}.self_attn.rotary_emb.inv_freq": torch.zeros(8)})

    load(folder)


def test_unknown_architecture_is_refused_before_the_weights_are_looked_for(folder: Path) -> None:
    change_config(folder, architectures=["NewForCausalLM"])
    (folder / "model.safetensors").unlink()

    with pytest.raises(UnsupportedModelError, match="'NewForCausalLM' is not supported"):
        load(folder)


def test_quantized_checkpoint_of_an_unknown_method_is_refused(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "aqlm", "bits": 2})

    with pytest.raises(UnsupportedModelError, match="quantized by 'aqlm' are not supported"):
        load(folder)


def test_quantized_checkpoint_is_found_by_its_configuration(tmp_path: Path) -> None:
    _, ids, logits = expected_of("awq-g32")
    copy_of("awq-g32", tmp_path)
    save_tokenizer(tmp_path, size=64)

    model = load(tmp_path)

    [found] = PagedRun(model.decoder).step([(PagedSequence(), ids[0].tolist())])
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-2)  # the library's weights are rounded to fp16


@pytest.mark.parametrize("kind", ["awq-g32", "gptq-int4-g32", "ct-int4-g128", "ct-fp8-dynamic", "fp8-block", "bnb-nf4"])
def test_quantized_matrices_that_the_configuration_does_not_know_are_told(tmp_path: Path, kind: str) -> None:
    copy_of(kind, tmp_path)
    save_tokenizer(tmp_path, size=64)
    change_config(tmp_path, quantization_config=None)

    with pytest.raises(CheckpointError, match=r"hold quantized matrices \(model\.layers.* check .*quantization_config"):
        load(tmp_path)


def test_parts_of_quantized_modules_that_the_method_does_not_know_are_named(tmp_path: Path) -> None:
    copy_of("awq-g32", tmp_path)
    save_tokenizer(tmp_path, size=64)
    change_weights(tmp_path, {f"{LAYER}.mlp.up_proj.g_idx": torch.zeros(64, dtype=torch.int32)})

    with pytest.raises(CheckpointError, match=r"up_proj\.g_idx' is not used"):
        load(tmp_path)


# --- what a loaded model says ----------------------------------------------------------------------------------------


def test_loaded_model_describes_itself(folder: Path) -> None:
    model = load(folder)

    assert (model.architecture, model.vocab_size, model.max_position) == ("LlamaForCausalLM", VOCAB_SIZE, 256)
    assert model.decoder.mixers == [AttentionSpec(4, 2, 16, 0.25)] * 2
    assert model.weight_bytes == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    assert model.tokenizer.eos_token_ids == [2]


def test_operator_is_told_the_level_of_the_kernels_and_their_file(folder: Path) -> None:
    kernels = required_library()

    assert load(folder).notes[-1].startswith(f"Native kernels: {kernels.level} ({kernels.path})")


def test_fused_parameters_hold_their_shards_in_order(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")

    layer = load(folder).decoder.layers[1]

    qkv = torch.cat([stored[f"{LAYER}.self_attn.{name}_proj.weight"] for name in "qkv"])
    gate_up = torch.cat([stored[f"{LAYER}.mlp.{name}_proj.weight"] for name in ("gate", "up")])
    assert torch.equal(layer.attn.qkv.weight, qkv)
    assert torch.equal(layer.mlp.gate_up.weight, gate_up)


def test_configuration_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("models.config.hf_config.read_text", lambda path: (read.append(path.name), path.read_text())[1])
    files = ModelFiles(folder, (), "m")

    check_config(files, {})
    load_model(files, LoadOptions(dtype="float32"), ignore_progress)

    assert read.count("config.json") == 1


def test_progress_runs_from_nothing_to_all_bytes(folder: Path) -> None:
    reports: list[tuple[str, int, int, str]] = []

    load_model(ModelFiles(folder, (), "m"), LoadOptions(dtype="bfloat16"), lambda *report: reports.append(report))

    total = sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    stages = list(dict.fromkeys(report[0] for report in reports))
    assert stages in (["read tokenizer", "load weights"], ["compile kernels", "read tokenizer", "load weights"])
    loading = [report for report in reports if report[0] == "load weights"]
    assert {(stage, all_bytes, unit) for stage, _, all_bytes, unit in loading} == {("load weights", total, "B")}
    done = [report[1] for report in loading]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)


@pytest.mark.parametrize(
    ("name", "stored", "device", "expected"),
    [
        ("auto", torch.bfloat16, CPU, torch.bfloat16),
        ("auto", torch.float32, CPU, torch.bfloat16),
        ("auto", torch.float32, CUDA, torch.bfloat16),
        ("auto", torch.float16, CPU, torch.bfloat16),
        ("auto", torch.float16, CUDA, torch.float16),
        ("float32", torch.bfloat16, CPU, torch.float32),
        ("float16", torch.bfloat16, CPU, torch.float16),
    ],
)
def test_dtype_follows_the_checkpoint_only_where_it_has_fitting_16_bits(
    name: str, stored: torch.dtype, device: torch.device, expected: torch.dtype
) -> None:
    assert resolve_dtype(name, stored, device) == expected


HEADS_OF_24 = AttentionSpec(4, 2, 24, 0.25)


def test_back_end_that_refuses_one_layer_is_passed_over_with_its_reason() -> None:
    backend, refusals = select_backend([AttentionSpec(4, 2, 16, 0.25), HEADS_OF_24], torch.float32, torch.float32, CPU)

    assert backend.name == "reference"
    assert len(refusals) == 1
    assert refusals[0].startswith("cpu: ")
    assert "not 24" in refusals[0]


def test_no_back_end_is_an_error_with_every_reason() -> None:
    with pytest.raises(ModelError, match=r"cpu: takes head sizes .* not 24.*choose another --dtype or --device"):
        select_backend([HEADS_OF_24], torch.float32, torch.float32, CPU, {"cpu": [PREFERENCE["cpu"][0]]})
    with pytest.raises(ModelError, match="there is none for this device"):
        select_backend([HEADS_OF_24], torch.float32, torch.float32, CPU, {})


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("auto", torch.float32), ("fp8", torch.float8_e4m3fn), ("int8", torch.int8), ("int4", torch.int4)],
)
def test_the_kv_cache_has_a_dtype_of_its_own(folder: Path, name: str, dtype: torch.dtype) -> None:
    model = load(folder, kv_dtype=name)

    assert (model.dtype, model.compute.kv_dtype) == (torch.float32, dtype)
    assert model.cache_layout == cpu_compute(backend=CpuAttention(), kv_dtype=dtype).cache_layout(model.decoder.mixers)


def test_choices_of_an_indexer_and_models_without_attention_take_no_kv_dtype(tmp_path: Path) -> None:
    for name, config, message in (
        ("chosen", DEEPSEEK_V32_VARIANTS["glm-5.2"](), r"KV cache in int8.*indexer chooses.*another --kv-cache-dtype"),
        ("recurrent", mamba(), "--kv-cache-dtype is int8, but MambaForCausalLM has no attention"),
    ):
        random_model(config).save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name, size=VOCAB_SIZE)
        with pytest.raises(ModelError, match=message):
            load(tmp_path / name, kv_dtype="int8")


# --- generation_config.json ------------------------------------------------------------------------------------------

GIVEN = {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "do_sample": True, "max_length": 4096, "min_p": None}


@pytest.fixture
def recommended(tmp_path: Path) -> Path:
    (tmp_path / "generation_config.json").write_text(json.dumps(GIVEN))
    return tmp_path


def test_defaults_are_the_values_given(recommended: Path) -> None:
    expected = {"temperature": 0.6, "top_p": 0.9, "top_k": 0.0}

    assert generation_defaults("auto", recommended) == expected
    assert generation_defaults(str(recommended), None) == expected


def test_defaults_are_neutral_when_asked_or_when_there_are_none(recommended: Path, tmp_path: Path) -> None:
    assert generation_defaults("vllm", recommended) == {}
    assert generation_defaults("auto", tmp_path / "empty") == {}
    assert generation_defaults("auto", None) == {}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"general.sampling.temp": 0.5, "general.sampling.top_k": 40}, {"temperature": 0.5, "top_k": 40.0}),
        ({"general.basename": "smollm2", "tokenizer.chat_template": "x"}, {"temperature": 0.2, "top_p": 0.9}),
        (
            {"general.basename": "smollm2", "general.size_label": "135M", "tokenizer.chat_template": "x"},
            {"temperature": 0.2, "top_p": 0.5, "repetition_penalty": 1.1},
        ),
        (
            {"general.basename": "smollm2", "general.size_label": "1.7B", "tokenizer.chat_template": "x"},
            {"temperature": 0.2, "top_p": 0.9},
        ),
        ({"general.basename": "smollm2"}, {}),  # a base model
        ({"general.basename": "other", "tokenizer.chat_template": "x"}, {}),
        ({"general.basename": "smollm2", "tokenizer.chat_template": "x", "general.sampling.top_p": 1}, {"top_p": 1.0}),
    ],
)
def test_a_gguf_says_its_defaults_or_its_family_has_some(metadata: dict[str, Any], expected: dict[str, float]) -> None:
    assert generation_defaults("auto", None, metadata) == expected
    assert generation_defaults("vllm", None, metadata) == {}


def test_a_file_beside_a_gguf_comes_first(recommended: Path) -> None:
    assert generation_defaults("auto", recommended, {"general.sampling.temp": 0.5})["temperature"] == 0.6


@pytest.mark.parametrize("value", ["hot", -1.0, float("nan"), float("inf")])
def test_a_malformed_default_of_a_gguf_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"general\.sampling\.temp"):
        generation_defaults("auto", None, {"general.sampling.temp": value})


def test_chosen_folder_without_defaults_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no .*generation_config\.json"):
        generation_defaults(str(tmp_path), None)


@pytest.mark.parametrize("value", ["hot", True, -0.5, float("nan")])
def test_malformed_default_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": value}))

    with pytest.raises(CheckpointError, match="temperature is"):
        generation_defaults("auto", tmp_path)
