"""Long contexts: a tiny model with a scaling, served in chunks with bounded memory, says what transformers says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM

from models.attention.select import PREFERENCE, load_backend
from tests.helpers.checkpoints import SMALL, VOCAB_SIZE, llama_config, load_folder, random_model
from tests.helpers.long_context import long_prompt
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.variants import LONGROPE

MIB = 1 << 20
THETA = {"rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 16.0, **THETA}
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **THETA}


def save_model(folder: Path, rope: dict, original: int, longest: int) -> None:
    """One KV head and two query heads of 16 in two layers, with a tokenizer."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    scaling = {**rope, "original_max_position_embeddings": original}
    config = LlamaConfig(**{**SMALL, **sizes, "max_position_embeddings": longest}, rope_parameters=scaling)
    random_model(config).save_pretrained(folder)
    words = {f"w{index}": index for index in range(VOCAB_SIZE)}
    Tokenizer(WordLevel(words, "w0")).save(str(folder / "tokenizer.json"))


def truth(folder: Path, prompt: list[int], lengths: list[int]) -> torch.Tensor:
    """Return log probabilities after the first tokens of the prompt, [lengths, V]; eager would hold all scores."""
    model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    rows = torch.tensor(lengths) - 1
    with torch.inference_mode():
        return model(torch.tensor([prompt]), logits_to_keep=rows).logits[0].log_softmax(dim=-1)


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        (YARN, 8192),
        (LLAMA3, 8192),
        pytest.param(YARN, 131072, marks=pytest.mark.long),
    ],
)
def test_long_context_is_served_in_bounded_memory(rope: dict, longest: int, tmp_path: Path) -> None:
    original = longest // 16
    save_model(tmp_path, rope, original, longest)
    lengths = [1, original - 1, original, original + 1, original + 2, 2 * original, longest - 1]

    command = [sys.executable, "-m", "tests.helpers.long_context", str(tmp_path), *map(str, lengths)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    expected = truth(tmp_path, long_prompt(longest - 1, VOCAB_SIZE), lengths)
    torch.testing.assert_close(torch.tensor(result["logprobs"]), expected, rtol=0.0, atol=1e-3)
    assert result["grown_bytes"] < result["kv_bytes"] + 32 * MIB  # all scores of 8k alone would take 512


# Both depend on a sequence's length in transformers, and on the longest served context here.
BY_LENGTH = {
    "dynamic": {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0} | THETA},
    "longrope": {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 16}},
}


@pytest.mark.parametrize("name", BY_LENGTH)
@pytest.mark.parametrize("path", PREFERENCE["cpu"])
def test_scaling_by_length_equals_transformers_at_the_served_length(name: str, path: str, tmp_path: Path) -> None:
    model, backend, served = random_model(llama_config(**BY_LENGTH[name])), load_backend(path), 37
    model.save_pretrained(tmp_path)
    decoder = load_folder(tmp_path, backend=backend)
    prompt = long_prompt(served, VOCAB_SIZE)
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0]

    decoder.serve_context(served)
    run, sequence = PagedRun(decoder), PagedSequence()
    logits = [run.step([(sequence, prompt[start : start + 5])])[0] for start in range(0, served, 5)]

    torch.testing.assert_close(torch.cat(logits), expected, rtol=0.0, atol=1e-4)
