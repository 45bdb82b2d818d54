"""benchmarks/export_checkpoint.py: what it writes of a GGUF file is the same model to transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from benchmarks import export_checkpoint
from models.errors import UnsupportedModelError
from models.export import hugging_face
from models.sources.resolve import ModelFiles
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.checkpoints import LLAMA3_ROPE, gpt2_config, llama_config, qwen2_config, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.models.families.variants import qwen3, qwen3_moe

TOKENIZER = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}, unk_token="<unk>")).to_str().encode()
ASSETS = TokenizerAssets(TOKENIZER, "{{ messages }}", {"eos_token": "</s>"}, 1, [2], False)


@pytest.fixture(autouse=True)
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's GGUF files have none."""
    monkeypatch.setattr(hugging_face, "load_tokenizer_assets", lambda *_: ASSETS)


def files_of(path: Path) -> ModelFiles:
    return ModelFiles(None, (path,), str(path))


@pytest.mark.parametrize(
    "config",
    [
        llama_config,
        lambda: llama_config(tie_word_embeddings=True),
        qwen2_config,
        qwen3,
        lambda: qwen3_moe(moe_intermediate_size=64, norm_topk_prob=True),  # whose experts are a stack in GGUF
    ],
    ids=["llama", "llama-tied", "qwen2", "qwen3", "qwen3-moe"],
)
def test_transformers_reads_the_dequantized_weights(tmp_path: Path, config: Callable[[], PretrainedConfig]) -> None:
    model = random_model(config())
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.Q4_0)  # rounds the model's weights
    folder = tmp_path / "out"
    export_checkpoint.export(files_of(tmp_path / "model.gguf"), folder)
    exported = AutoModelForCausalLM.from_pretrained(folder)
    assert exported.dtype == torch.bfloat16
    exported = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
        torch.testing.assert_close(exported(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).eos_token == "</s>"


@pytest.mark.parametrize("config", [gpt2_config, lambda: llama_config(rope_parameters=LLAMA3_ROPE)])
def test_models_that_it_would_write_wrongly_are_refused(tmp_path: Path, config: Callable[[], PretrainedConfig]) -> None:
    write_gguf(random_model(config()), tmp_path / "model.gguf", GGMLQuantizationType.Q8_0)
    with pytest.raises(UnsupportedModelError, match="export"):
        export_checkpoint.export(files_of(tmp_path / "model.gguf"), tmp_path / "out")
