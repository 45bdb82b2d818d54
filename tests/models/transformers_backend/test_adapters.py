"""LoRA adapters of models that transformers' code computes, against the same adapters on transformers' own layers."""

from pathlib import Path

import pytest
import torch
from transformers import CwmConfig, FlexOlmoConfig, MiniCPM3Config, PretrainedConfig, PreTrainedModel

from engine.config import DType, EngineConfig
from engine.startup.build import build_engine
from models.adapters.read import read_adapter
from models.errors import AdapterError
from models.linear.adapters.adapter import Adapter
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel
from models.loading.foreign import build_foreign_decoder
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from models.tokenizer.assets import TokenizerAssets
from models.transformers_backend.decoder import TransformersDecoder
from models.transformers_backend.open import open_through_transformers
from tests.helpers.adapters import RandomAdapter, adapted, random_adapter, random_dora
from tests.helpers.checkpoints import SMALL, VOCAB_SIZE, cpu_compute, llama_config, load_folder, random_model
from tests.helpers.model_folders import write_model_folder
from tests.helpers.paged import PagedRun, PagedSequence

PROMPTS = torch.randint(VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(3)).tolist()
CWM = SMALL | {"sliding_window": 6, "head_dim": 16}
CONFIGS: dict[str, PretrainedConfig] = {
    "cwm": CwmConfig(**CWM),
    "cwm-tied": CwmConfig(**CWM, tie_word_embeddings=True),
    "flex-olmo": FlexOlmoConfig(**SMALL | {"num_experts": 4, "num_experts_per_tok": 2, "pad_token_id": None}),
    "minicpm3": MiniCPM3Config(
        **SMALL
        | {"num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16}
        | {"qk_rope_head_dim": 16, "v_head_dim": 16}
    ),
}


def built(
    folder: Path, dtype: torch.dtype = torch.float32, weights: WeightOptions | None = None
) -> TransformersDecoder:
    opened = open_through_transformers(ModelFiles(folder, (), "m"), {})
    decoder = build_foreign_decoder(opened, cpu_compute(dtype), weights or WeightOptions(), lambda *_: None)[0]
    decoder.enable_adapters(3, 8)
    return decoder


def as_loaded(decoder: TransformersDecoder) -> LoadedModel:
    return LoadedModel(
        decoder=decoder,
        architecture="CwmForCausalLM",
        compute=cpu_compute(decoder.compute_dtype),
        vocab_size=VOCAB_SIZE,
        max_position=256,
        weight_bytes=0,
        tokenizer=TokenizerAssets(b"{}", None, {}, None, [2], False),
        generation_defaults={},
        adapter_targets=decoder.adapter_targets,
    )


def loaded(adapter: RandomAdapter, folder: Path, decoder: TransformersDecoder) -> Adapter:
    return read_adapter(adapter.save(folder), as_loaded(decoder))


def adapters_of(model: PreTrainedModel, name: str) -> tuple[RandomAdapter, RandomAdapter]:
    """Adapters of all layers; where the embedding scales its rows, of the layers alone."""
    only = "_proj" if name == "minicpm3" else ""
    return random_adapter(model, rank=3, seed=3, only=only), random_adapter(model, rank=5, seed=5, only=only)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_a_batch_have_their_own_adapters(tmp_path: Path, name: str) -> None:
    model = random_model(CONFIGS[name])
    model.save_pretrained(tmp_path / "base")
    decoder = built(tmp_path / "base")
    both = adapters_of(model, name)
    for slot, adapter in enumerate(both):
        found = loaded(adapter, tmp_path / str(slot), decoder)
        decoder.set_adapter(slot, decoder.prepare_adapter(found))

    rows = PagedRun(decoder).step([(PagedSequence(), PROMPTS[n]) for n in (0, 1, 0)], [0, 1, -1])

    with torch.inference_mode():
        plain = model(torch.tensor(PROMPTS[:1])).logits[0]
        for slot, adapter in enumerate(both):
            with adapted(model, adapter):
                expected = model(torch.tensor(PROMPTS[slot : slot + 1])).logits[0]
            torch.testing.assert_close(rows[slot], expected, rtol=0.0, atol=2e-4)
    torch.testing.assert_close(rows[2], plain, rtol=0.0, atol=1e-4)
    assert (rows[0] - plain).abs().mean() > 0.1


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_packed_layers_compute_what_the_family_computes(tmp_path: Path, kind: str) -> None:
    model = random_model(llama_config())
    model.save_pretrained(tmp_path / "base")
    adapter = random_adapter(model, rank=4, seed=4) if kind == "lora" else random_dora(model, rank=4, seed=4)
    weights = WeightOptions(quantize_to=Encoding.INT8)
    family = load_folder(tmp_path / "base", torch.float32, weights=weights)
    family.enable_adapters(3, 8)
    family.set_adapter(1, family.prepare_adapter(adapter.loaded(tmp_path / "a", family, "LlamaForCausalLM")))
    expected = PagedRun(family).step([(PagedSequence(), PROMPTS[0])], [1])[0]

    for dtype, limit in ((torch.float32, 1e-4), (torch.bfloat16, 0.03)):
        decoder = built(tmp_path / "base", dtype, weights)
        decoder.set_adapter(1, decoder.prepare_adapter(loaded(adapter, tmp_path / "a", decoder)))
        found = PagedRun(decoder).step([(PagedSequence(), PROMPTS[0])], [1])[0]
        assert float((found - expected).norm() / expected.norm()) < limit


def test_an_emptied_slot_has_no_effect(tmp_path: Path) -> None:
    model = random_model(CONFIGS["cwm"])
    model.save_pretrained(tmp_path / "base")
    decoder = built(tmp_path / "base")
    plain = PagedRun(decoder).step([(PagedSequence(), PROMPTS[0])])[0]
    adapter = loaded(random_adapter(model), tmp_path / "a", decoder)
    decoder.set_adapter(0, decoder.prepare_adapter(adapter))
    decoder.set_adapter(0, None)

    assert torch.equal(PagedRun(decoder).step([(PagedSequence(), PROMPTS[0])], [0])[0], plain)


def test_parts_that_transformers_computes_are_refused(tmp_path: Path) -> None:
    """Experts in one tensor, and embeddings that scale their rows."""
    model = random_model(CONFIGS["minicpm3"])
    model.save_pretrained(tmp_path / "base")
    adapter = random_adapter(model, only="embed_tokens")

    with pytest.raises(AdapterError, match=r"model\.embed_tokens.* belongs to no layer .* merge the adapter"):
        loaded(adapter, tmp_path / "a", built(tmp_path / "base"))


def test_adapters_in_gguf_are_refused(tmp_path: Path) -> None:
    random_model(CONFIGS["cwm"]).save_pretrained(tmp_path / "base")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")

    with pytest.raises(AdapterError, match="GGUF has no architecture CwmForCausalLM; use a PEFT folder"):
        read_adapter(tmp_path / "a.gguf", as_loaded(built(tmp_path / "base")))


def test_engine_starts_with_adapters_and_trains_none(tmp_path: Path) -> None:
    options = EngineConfig(
        model=str(write_model_folder(tmp_path, CwmConfig(**CWM | {"vocab_size": 266}))),
        dtype=DType.FLOAT32,
        max_model_len=64,
        enable_lora=True,
    )

    _, info = build_engine(options, lambda *_: None)

    assert [note for note in info.notes if note.startswith("Adapters: ")]
    assert info.trainable_layers == []
