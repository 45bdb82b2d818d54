"""Parity of GGUF checkpoints: files written as llama.cpp's converter does give the logits of the weights they hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import PretrainedConfig

from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from tests.helpers.checkpoints import (
    LLAMA3_ROPE,
    gpt2_config,
    llama_config,
    load_folder,
    load_gguf,
    qwen2_config,
    random_model,
    write_gguf,
)
from tests.helpers.paged import PagedRun, PagedSequence
from tests.parity.variants import VARIANTS as CONFIGS

PROMPT = torch.randint(128, (40,), generator=torch.Generator().manual_seed(3)).tolist()
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": llama_config,
    "llama-tied": lambda: llama_config(tie_word_embeddings=True),
    "llama-biases": lambda: llama_config(attention_bias=True, mlp_bias=True),
    "llama3-rope": lambda: llama_config(rope_parameters=LLAMA3_ROPE),
    "llama-linear-rope": lambda: llama_config(rope_parameters=LINEAR_ROPE),
    "qwen2": qwen2_config,
    "gpt2": gpt2_config,
    "granite": CONFIGS["granite"],
}


def logits_of(decoder: Decoder) -> torch.Tensor:
    run = PagedRun(decoder, ReferenceAttention())
    return run.step([(PagedSequence(), PROMPT)])[0]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0])
def test_gguf_logits_equal_those_of_its_dequantised_weights(
    tmp_path: Path, variant: str, kind: GGMLQuantizationType
) -> None:
    model = random_model(VARIANTS[variant]())
    write_gguf(model, tmp_path / "model.gguf", kind)  # rounds the model's weights to what the file holds
    model.save_pretrained(tmp_path / "folder")
    with torch.inference_mode():
        transformers_logits = model(torch.tensor([PROMPT])).logits[0]

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(logits, logits_of(load_folder(tmp_path / "folder")), rtol=0.0, atol=1e-5)


def test_gguf_split_into_parts_equals_the_whole(tmp_path: Path) -> None:
    write_gguf(random_model(llama_config()), tmp_path / "whole.gguf", GGMLQuantizationType.Q8_0)
    write_gguf(random_model(llama_config()), tmp_path / "split.gguf", GGMLQuantizationType.Q8_0, split_max_tensors=8)
    parts = sorted(tmp_path.glob("split-*-of-*.gguf"))

    assert len(parts) == 3
    assert torch.equal(logits_of(load_gguf(parts)), logits_of(load_gguf([tmp_path / "whole.gguf"])))
