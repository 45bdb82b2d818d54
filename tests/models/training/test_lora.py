"""A Lora of a decoder with frozen weights of every kind: what it saves, and how formats pass gradients."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from models.adapters.read import read_adapter
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.errors import ModelError, SettingError
from models.families.registry import family_of
from models.kernels.cpu.library import required_library
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from models.training import frozen_weight
from models.training.adapter_file import load_pairs, save_adapter
from models.training.attention import TrainAttention
from models.training.batch import pack, training_caches
from models.training.generate import generate
from models.training.log_probs import token_log_probs
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, load_folder, random_model
from tests.helpers.loaded import as_loaded
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.deepseek_variants import deepseek_v2

SHAPE = LoraShape(rank=4, alpha=8.0)
WEIGHTS = {
    "bf16": WeightOptions(),
    "fp8": WeightOptions(quantize_to=Encoding.FP8_E4M3),
    "int8": WeightOptions(quantize_to=Encoding.INT8),
    "int4": WeightOptions(quantize_to=Encoding.INT4, includes_head=True),
    "nf4": WeightOptions(quantize_to=Encoding.NF4),
}
IDS = [[5, 9, 33, 71, 8, 20, 4], [11, 3, 99, 100, 7]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    random_model(llama_config()).save_pretrained(path)
    return path


def _trainable(
    folder: Path,
    dtype: torch.dtype,
    weights: WeightOptions | None = None,
    *,
    architecture: str = "LlamaForCausalLM",
) -> tuple[Decoder, Lora]:
    backend = ReferenceAttention() if dtype == torch.float32 else CpuAttention()
    decoder = load_folder(folder, dtype, TrainAttention(backend), weights).requires_grad_(False)
    return decoder, Lora(decoder, family_of(architecture).names, SHAPE, seed=1)


def _randomize(lora: Lora, scale: float = 0.05) -> None:
    lora.values.copy_(scale * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))


def _gradients(decoder: Decoder, lora: Lora) -> torch.Tensor:
    lora.gradients.zero_()
    rows = torch.tensor([0, 1, 2, 3, 4, 5, 7, 8, 9, 10])
    targets = torch.tensor([token_id for ids in IDS for token_id in ids[1:]])
    hidden = decoder(pack(IDS, decoder, rows), training_caches(decoder), rows)
    (-token_log_probs(decoder, hidden, targets).log_probs.mean()).backward()
    return lora.gradients.clone()


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_gradients_through_packed_weights_are_near_those_through_the_same_numbers_in_fp32(
    folder: Path, weights: WeightOptions
) -> None:
    required_library()
    packed, lora = _trainable(folder, torch.bfloat16, weights)
    exact, exact_lora = _trainable(folder, torch.float32, weights)
    for each in (lora, exact_lora):
        _randomize(each)

    found, truth = _gradients(packed, lora), _gradients(exact, exact_lora)

    assert float(torch.nn.functional.cosine_similarity(found, truth, dim=0)) > 0.98


def test_gradients_pass_the_packed_matrices_of_latent_attention(tmp_path: Path) -> None:
    required_library()
    random_model(deepseek_v2(q_lora_rank=None, first_k_dense_replace=99)).save_pretrained(tmp_path)
    architecture = "DeepseekV2ForCausalLM"
    packed, lora = _trainable(tmp_path, torch.bfloat16, architecture=architecture)
    exact, exact_lora = _trainable(tmp_path, torch.float32, architecture=architecture)
    for each in (lora, exact_lora):
        _randomize(each)

    found, truth = _gradients(packed, lora), _gradients(exact, exact_lora)

    assert float(torch.nn.functional.cosine_similarity(found, truth, dim=0)) > 0.98


def test_gradients_are_those_of_whole_matrices_where_weights_are_dequantized_in_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, lora = _trainable(folder, torch.bfloat16, WEIGHTS["int4"])
    _randomize(lora)
    whole = _gradients(decoder, lora)

    monkeypatch.setattr(frozen_weight, "_MAX_ELEMENTS", 1000)

    assert float(torch.nn.functional.cosine_similarity(_gradients(decoder, lora), whole, dim=0)) > 0.999


def test_an_adapter_begins_as_the_base(folder: Path) -> None:
    decoder, lora = _trainable(folder, torch.float32)
    adapted = generate(decoder, IDS, [], 5)

    lora.is_adapted = False

    assert generate(decoder, IDS, [], 5) == adapted
    assert float(lora.values.abs().max()) > 0  # A is random, B zero


@pytest.mark.parametrize("variant", ["llama-gqa", "gpt2", "gpt-neox", "gemma2", "qwen3-next", "lfm2"])
def test_what_is_generated_is_what_the_merged_model_generates(variant: str, tmp_path: Path) -> None:
    model = random_model(ALL_VARIANTS[variant]())
    model.save_pretrained(tmp_path)
    decoder = load_folder(tmp_path, torch.float32, TrainAttention(ReferenceAttention())).requires_grad_(False)
    lora = Lora(decoder, family_of(type(model).__name__).names, SHAPE, seed=1)
    _randomize(lora)
    for name, a, b in lora.matrices():
        module = model.get_submodule(name)
        delta = SHAPE.scale * b @ a
        with torch.no_grad():
            module.weight += delta.t() if isinstance(module, Conv1D) else delta

    answers = generate(decoder, IDS, [], 6)

    for ids, answer in zip(IDS, answers, strict=True):
        row = list(ids)
        for _ in answer:
            with torch.no_grad():
                row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
        assert row[len(ids) :] == answer


def test_a_saved_adapter_is_loaded_again_to_the_last_bit(folder: Path, tmp_path: Path) -> None:
    _, lora = _trainable(folder, torch.float32)
    _randomize(lora)
    save_adapter(tmp_path, lora, "base")

    _, other = _trainable(folder, torch.float32)
    load_pairs(tmp_path, other)

    assert torch.equal(other.values, lora.values)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape == (4, 96)
    assert tensors["base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"].shape == (32, 4)


@pytest.mark.parametrize("variant", ["llama-gqa", "gpt2", "gpt-neox", "deepseek-v2"])
def test_a_saved_adapter_is_served_with_the_same_logits(variant: str, tmp_path: Path) -> None:
    model = random_model(ALL_VARIANTS[variant]())
    model.save_pretrained(tmp_path)
    architecture, rows = type(model).__name__, torch.arange(len(IDS[0]))
    trained, serving = (load_folder(tmp_path, torch.float32, TrainAttention(ReferenceAttention())) for _ in range(2))
    lora = Lora(trained.requires_grad_(False), family_of(architecture).names, SHAPE, seed=1)
    _randomize(lora)
    save_adapter(tmp_path / "adapter", lora, "base")

    serving.enable_adapters(1, SHAPE.rank)
    serving.set_adapter(
        0, serving.prepare_adapter(read_adapter(tmp_path / "adapter", as_loaded(serving, architecture)))
    )

    slots = torch.zeros(len(rows), dtype=torch.int32)
    with torch.no_grad():
        batch = pack(IDS[:1], trained, rows)
        expected = trained.logits(trained(batch, training_caches(trained), rows))
        adapted = dataclasses.replace(batch, adapter_slots=slots)
        logits = serving.logits(serving(adapted, training_caches(serving), rows), slots)
        lora.is_adapted = False
        base = trained.logits(trained(batch, training_caches(trained), rows))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert float((base - expected).abs().max()) > 0.1


def test_an_adapter_of_another_rank_is_refused(folder: Path, tmp_path: Path) -> None:
    decoder = load_folder(folder, torch.float32, TrainAttention(ReferenceAttention()))
    names = family_of("LlamaForCausalLM").names
    save_adapter(tmp_path, Lora(decoder, names, LoraShape(2, 4.0), 0), "base")
    _, lora = _trainable(folder, torch.float32)

    with pytest.raises(ModelError, match="rank 2 and alpha 4"):
        load_pairs(tmp_path, lora)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_rslora", True),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("init_lora_weights", "pissa"),
    ],
)
def test_an_adapter_of_another_scale_is_refused_by_the_fields_name(
    folder: Path, tmp_path: Path, field: str, value: object
) -> None:
    _, lora = _trainable(folder, torch.float32)
    save_adapter(tmp_path, lora, "base")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))

    with pytest.raises(ModelError, match=field):
        load_pairs(tmp_path, lora)


def test_only_the_targets_are_trained_and_unknown_ones_are_refused(folder: Path) -> None:
    names = family_of("LlamaForCausalLM").names
    decoder = load_folder(folder, torch.float32, TrainAttention(ReferenceAttention()))
    lora = Lora(decoder, names, LoraShape(4, 8.0, ("q_proj", "down_proj")), 0)

    assert {pair.name.rpartition(".")[2] for pair in lora.matrices()} == {"q_proj", "down_proj"}
    decoder = load_folder(folder, torch.float32, TrainAttention(ReferenceAttention()))
    with pytest.raises(SettingError, match="called qproj that can be trained; it has down_proj, gate_proj"):
        Lora(decoder, names, LoraShape(4, 8.0, ("qproj",)), 0)


def test_log_probabilities_are_those_of_the_logits_in_any_number_of_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, _ = _trainable(folder, torch.float32)
    rows = torch.arange(7)
    hidden = decoder(pack(IDS[:1], decoder, rows), training_caches(decoder), rows).detach()
    targets = torch.tensor(IDS[0])
    expected = decoder.logits(hidden).log_softmax(1).gather(1, targets[:, None])[:, 0]

    torch.testing.assert_close(token_log_probs(decoder, hidden, targets).log_probs, expected)
    monkeypatch.setattr("models.training.head_logits._MAX_LOGITS", 2 * VOCAB_SIZE)
    torch.testing.assert_close(token_log_probs(decoder, hidden, targets).log_probs, expected)
