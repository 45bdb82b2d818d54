"""Beam search over the whole server, against transformers on the same checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.e2e.conftest import FAST_START
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.helpers.server_process import ServerProcess

PROMPT = list(range(10, 50))  # more than two blocks
WIDTH, LENGTH = 4, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"), llama_config(vocab_size=VOCAB_SIZE))


@pytest.fixture(scope="module")
def tiny_server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, "--model", str(folder), "--dtype", "float32", "--check-invariants", *FAST_START) as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize("length_penalty", [1.0, -0.5])
def test_the_servers_beams_are_those_of_transformers(
    tiny_server: ServerProcess, folder: Path, length_penalty: float
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = model.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT)),
        do_sample=False,
        num_beams=WIDTH,
        num_return_sequences=WIDTH,
        max_new_tokens=LENGTH,
        eos_token_id=[1, 2],  # of the tokenizer and of the configuration
        pad_token_id=0,
        length_penalty=length_penalty,
    )[:, len(PROMPT) :].tolist()
    body = {
        "prompt": PROMPT,
        "max_tokens": LENGTH,
        "use_beam_search": True,
        "n": WIDTH,
        "length_penalty": length_penalty,
        "return_token_ids": True,
    }
    with tiny_server.client() as client:
        answer = client.post("/v1/completions", json=body).json()
    given = [choice["token_ids"] for choice in answer["choices"]]
    assert [beam + [0] * (LENGTH - len(beam)) for beam in given] == [
        beam + [0] * (LENGTH - len(beam)) for beam in expected
    ]
    hits, queries = (tiny_server.metric(f"headrace_prefix_cache_{name}_total") for name in ("hits", "queries"))
    assert hits > 0.75 * queries  # all but the last block of each beam
    assert tiny_server.metric("headrace_num_requests_running") == 0
