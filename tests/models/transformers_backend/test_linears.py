"""Linear layers of headrace's in models that transformers' code computes: their formats, and who computes what."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CwmConfig, FlexOlmoConfig, MiniCPM3Config, PretrainedConfig

from models.errors import CheckpointError, UnsupportedModelError
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedWeights
from models.loading.foreign import build_foreign_decoder
from models.loading.open import check_config
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from models.transformers_backend.decoder import TransformersDecoder
from models.transformers_backend.linears import ForeignLinear
from models.transformers_backend.open import open_through_transformers
from tests.helpers.checkpoints import (
    SMALL,
    VOCAB_SIZE,
    cpu_compute,
    llama_config,
    load_folder,
    qwen2_config,
    random_model,
)
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.quantized import QUANTIZED, change_quantization, copy_of, expected_of

PROMPT = torch.randint(VOCAB_SIZE, (23,), generator=torch.Generator().manual_seed(1)).tolist()
EXPERTS = FlexOlmoConfig(**SMALL | {"num_experts": 4, "num_experts_per_tok": 2, "pad_token_id": None})

# Relative errors of bf16 logits; rounding rows to FP8's 3 bits costs most. A wrong format gives 1.
BOUNDS = {"fp8-block": 0.12}


def saved(config: PretrainedConfig, folder: Path) -> Path:
    random_model(config).save_pretrained(folder)
    return folder


def built(
    folder: Path, dtype: torch.dtype = torch.float32, weights: WeightOptions | None = None
) -> tuple[TransformersDecoder, LoadedWeights]:
    opened = open_through_transformers(ModelFiles(folder, (), "m"), {})
    return build_foreign_decoder(opened, cpu_compute(dtype), weights or WeightOptions(), lambda *_: None)


def logits_of(decoder: TransformersDecoder, ids: list[int]) -> torch.Tensor:
    return PagedRun(decoder).step([(PagedSequence(), ids)])[0]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def own_layers(decoder: TransformersDecoder) -> int:
    return sum(isinstance(module, ForeignLinear) for module in decoder.modules())


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
def test_all_linear_layers_are_replaced(tmp_path: Path, is_tied: bool) -> None:
    """Those with biases and the output layer, too."""
    decoder, weights = built(saved(qwen2_config(tie_word_embeddings=is_tied), tmp_path), torch.bfloat16)

    assert own_layers(decoder) == 2 * 7 + 1
    assert [type(module) for module in decoder.modules() if isinstance(module, nn.Linear)] == []
    assert [type(module) for module in decoder.modules() if isinstance(module, nn.Embedding)] == []
    assert "multiplied by transformers" not in weights.note
    assert set(weights.formats) == {"bf16", "f32"} or set(weights.formats) == {"bf16"}


@pytest.mark.parametrize("is_tied", [False, True], ids=["untied", "tied"])
def test_bf16_logits_are_near_those_of_fp32(tmp_path: Path, is_tied: bool) -> None:
    """By packed weights, whose products are as exact as torch's in bf16."""
    model = random_model(qwen2_config(tie_word_embeddings=is_tied))
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        exact = model(torch.tensor([PROMPT])).logits[0]
        in_torch = model.to(torch.bfloat16)(torch.tensor([PROMPT])).logits[0].float()

    found = logits_of(built(tmp_path, torch.bfloat16)[0], PROMPT)

    assert relative_error(found, exact) < 1.2 * relative_error(in_torch, exact)


@pytest.mark.parametrize("encoding", [Encoding.FP8_E4M3, Encoding.INT4], ids=["fp8", "int4"])
def test_quantization_on_load_is_that_of_the_family(tmp_path: Path, encoding: Encoding) -> None:
    folder = saved(llama_config(tie_word_embeddings=True), tmp_path)
    options = WeightOptions(quantize_to=encoding, includes_head=True)
    decoder, weights = built(folder, weights=options)

    expected = PagedRun(load_folder(folder, weights=options)).step([(PagedSequence(), PROMPT)])[0]

    torch.testing.assert_close(logits_of(decoder, PROMPT), expected, rtol=0.0, atol=1e-4)
    assert f"quantized on load from f32 {2 * 7 + 1}" in weights.note


def test_output_layer_is_quantized_only_on_request(tmp_path: Path) -> None:
    _, weights = built(saved(llama_config(), tmp_path), weights=WeightOptions(quantize_to=Encoding.INT8))

    assert "quantized on load from f32 14" in weights.note


@pytest.mark.parametrize("kind", ["gptq-int4-g32", "awq-g64-tied", "fp8-block", "ct-w8a8-written", "bnb-nf4"])
def test_quantized_checkpoints_compute_what_their_family_computes(kind: str) -> None:
    """Codes as they are stored, by the same readers."""
    _, ids, logits = expected_of(kind)
    prompt = ids[0].tolist()
    expected = PagedRun(load_folder(QUANTIZED / kind)).step([(PagedSequence(), prompt)])[0]
    decoder, weights = built(QUANTIZED / kind)
    assert relative_error(logits_of(decoder, prompt), expected) < 1e-4
    assert "dequantized from" not in weights.note

    packed, weights = built(QUANTIZED / kind, torch.bfloat16)

    assert relative_error(logits_of(packed, prompt), logits) < BOUNDS.get(kind, 0.03)
    assert "dequantized" not in weights.note


def test_experts_stay_with_transformers_and_the_note_says_so(tmp_path: Path) -> None:
    decoder, weights = built(saved(EXPERTS, tmp_path), weights=WeightOptions(quantize_to=Encoding.INT8))

    assert own_layers(decoder) == 2 * 4 + 1
    assert "; multiplied by transformers' code: " in weights.note
    assert "model.layers.*.mlp.experts.gate_up_proj 2" in weights.note
    assert "model.layers.*.mlp.gate.weight 2" in weights.note


def test_output_layers_tied_to_embeddings_that_are_scaled_stay_with_transformers(tmp_path: Path) -> None:
    config = MiniCPM3Config(
        **SMALL
        | {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16}
        | {"qk_rope_head_dim": 16, "v_head_dim": 16, "tie_word_embeddings": True}
    )
    _, weights = built(saved(config, tmp_path))

    assert weights.note.endswith("; multiplied by transformers' code: lm_head.weight 1")


def test_a_tied_output_layer_with_a_tensor_of_its_own_is_used(tmp_path: Path) -> None:
    """As transformers does, which ties only what the file leaves out or repeats."""
    saved(llama_config(tie_word_embeddings=True), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = type(random_model(llama_config())).from_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPT])).logits[0]

    torch.testing.assert_close(logits_of(built(tmp_path)[0], PROMPT), expected, rtol=0.0, atol=1e-4)


def test_code_that_reads_a_weight_keeps_its_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.cwm.modeling_cwm import CwmMLP

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.linear(x, self.up_proj.weight)) + 0 * self.gate_proj(x).sum()

    monkeypatch.setattr(CwmMLP, "forward", forward)
    config = CwmConfig(**SMALL | {"head_dim": 16, "sliding_window": 6})
    decoder, weights = built(saved(config, tmp_path))

    assert own_layers(decoder) == 2 * 6 + 1
    assert weights.note.endswith("; multiplied by transformers' code: model.layers.*.mlp.up_proj.weight 2")


def test_codes_without_a_description_are_refused(tmp_path: Path) -> None:
    folder = copy_of("fp8-block", tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("quantization_config", "unknown"))

    with pytest.raises(CheckpointError, match="is stored as F8_E4M3, which is not supported here; check"):
        built(folder)


def test_quantizations_without_a_reader_are_refused_without_weights(tmp_path: Path) -> None:
    folder = copy_of("gptq-int4-g32", tmp_path)
    change_quantization(folder, quant_method="hqq")
    (folder / "model.safetensors").unlink()

    with pytest.raises(UnsupportedModelError, match="weights quantized by 'hqq' are not supported"):
        check_config(ModelFiles(folder, (), "m"), {}, use_transformers=True)
