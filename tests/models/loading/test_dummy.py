"""Random weights of --load-format dummy: from a configuration alone, for every family."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PretrainedConfig

from models.attention.reference import ReferenceAttention
from models.compute import ComputeConfig
from models.decoder import Decoder
from models.errors import CheckpointError, SettingError, UnsupportedModelError
from models.forward.packed import PackedForward
from models.kernels.ops import Operations
from models.linear.storage import WeightOptions
from models.loading.load import LoadOptions, build_decoder, load_model
from models.loading.open import open_model, open_with_either
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import cpu_compute, llama_config
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.techniques import described
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.pooling_models import POOLING_MODELS

TOKENS = [5, 9, 9, 17, 3, 60]
# One of each kind of layer, so that the long run alone takes all.
IN_EVERY_RUN = (
    *(
        "llama-gqa",
        "gpt2",
        "bloom",
        "apertus",
        "gemma3n",
        "hunyuan-moe",
        "gpt-oss",
        "deepseek-v3.2",
        "qwen3-vl",
    ),
    *("rwkv7", "nemotron-h-latent-experts", "kimi-linear", "recurrent-gemma", "falcon-mamba", "lfm2-moe", "minimax"),
    *(("BertForSequenceClassification", "3 labels"), ("MPNetModel", ""), ("NomicBertModel", "")),
)


def marked(variants: Iterable[str | tuple[str, str]]) -> list[Any]:
    return [
        pytest.param(
            each,
            id=each if isinstance(each, str) else "-".join(each),
            marks=() if each in IN_EVERY_RUN else pytest.mark.long,
        )
        for each in variants
    ]


def write_config(folder: Path, config: PretrainedConfig, architecture: str) -> ModelFiles:
    fields = {**config.to_dict(), "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(fields, default=str))
    return ModelFiles(folder, (), "m")


def load_dummy(
    files: ModelFiles, seed: int = 0, weights: WeightOptions | None = None, compute: ComputeConfig | None = None
) -> Decoder:
    compute = compute or cpu_compute(ops=Operations(), backend=ReferenceAttention())
    opened = open_model(files, dummy_seed=seed)
    return build_decoder(opened, compute, weights or WeightOptions(), lambda *_: None)[0]


def logits_of(decoder: Decoder) -> torch.Tensor:
    return PagedRun(decoder).step([(PagedSequence(), TOKENS)])[0]


@pytest.fixture
def llama(tmp_path: Path) -> ModelFiles:
    return write_config(tmp_path, llama_config(), "LlamaForCausalLM")


@pytest.mark.parametrize("variant", marked(ALL_VARIANTS))
def test_every_decoder_computes_finite_logits_that_differ(tmp_path: Path, variant: str) -> None:
    config = ALL_VARIANTS[variant]()
    logits = logits_of(load_dummy(write_config(tmp_path, config, described(config)[0])))

    assert logits.isfinite().all()
    assert 1e-3 < float(logits.std()) < 100
    assert not torch.equal(logits[1], logits[3])


@pytest.mark.parametrize("variant", marked(POOLING_MODELS))
def test_every_pooling_model_computes_finite_states(tmp_path: Path, variant: tuple[str, str]) -> None:
    decoder = load_dummy(write_config(tmp_path, POOLING_MODELS[variant](), variant[0]))
    states = PackedForward(decoder, torch.device("cpu")).states(TOKENS, [len(TOKENS)], [0] * len(TOKENS))

    assert states.isfinite().all()
    assert float(states.std()) > 1e-3


def test_weights_depend_on_the_seed_alone(llama: ModelFiles) -> None:
    first, again, other = (load_dummy(llama, seed).layers[0].attn.qkv.weight for seed in (3, 3, 4))

    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any(dim=1).all()


def test_weights_are_spread_as_trained_ones(llama: ModelFiles) -> None:
    decoder = load_dummy(llama)
    weight, norm = decoder.layers[0].mlp.down.weight, decoder.layers[0].attn_norm.weight

    assert float(weight.mean()) == pytest.approx(0, abs=0.01)
    assert float(weight.var() * weight.shape[1]) == pytest.approx(1, abs=0.05)
    assert 0.7 <= float(norm.min()) < 0.8
    assert 1.2 < float(norm.max()) <= 1.3


def test_weights_are_quantized_on_load(llama: ModelFiles) -> None:
    logits = logits_of(load_dummy(llama))
    quantized = load_dummy(llama, weights=WeightOptions(quantize_to=Encoding.INT8))

    assert quantized.layers[0].attn.qkv.method.format_of("q") == "int8"
    assert torch.nn.functional.cosine_similarity(logits_of(quantized), logits).min() > 0.99


def test_native_kernels_compute_the_same_model(llama: ModelFiles) -> None:
    logits = logits_of(load_dummy(llama))
    assert torch.allclose(logits_of(load_dummy(llama, compute=cpu_compute())), logits, atol=1e-4)


def test_a_folder_without_a_tokenizer_gets_one_of_bytes(tmp_path: Path) -> None:
    config = llama_config(vocab_size=300)
    model = load_model(write_config(tmp_path, config, "LlamaForCausalLM"), LoadOptions(dummy_seed=7), lambda *_: None)
    tokenizer = Tokenizer.from_str(model.tokenizer.tokenizer_json.decode())

    assert tokenizer.encode("aé\n <").ids == [*"aé\n <".encode()]
    assert tokenizer.decode([*"aé\n".encode(), 256, 299]) == "aé\n 256 299"
    assert model.tokenizer.eos_token_ids == [2]
    assert any("each byte of a text is a token" in note for note in model.notes)
    assert any("random numbers (--load-format dummy, seed 7)" in note for note in model.notes)


def test_a_vocabulary_too_small_for_bytes_needs_a_tokenizer(llama: ModelFiles) -> None:
    with pytest.raises(CheckpointError, match=r"vocabulary of 128 tokens, too few.*add the model's tokenizer.json"):
        load_model(llama, LoadOptions(dummy_seed=0), lambda *_: None)


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--load-format is dummy, but m is a GGUF file.*leave --load-format out"):
        open_model(ModelFiles(None, (tmp_path / "m.gguf",), "m"), dummy_seed=0)


def test_codes_are_refused(tmp_path: Path) -> None:
    files = write_config(tmp_path, llama_config(quantization_config={"quant_method": "awq"}), "LlamaForCausalLM")
    with pytest.raises(UnsupportedModelError, match=r"describes quantized weights.*remove the quantization_config"):
        open_model(files, dummy_seed=0)


def test_transformers_code_is_refused(llama: ModelFiles) -> None:
    with pytest.raises(UnsupportedModelError, match=r"transformers' code.*leave --load-format out"):
        open_with_either(llama, {}, use_transformers=True, dummy_seed=0)
