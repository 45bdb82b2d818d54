"""A server with --deterministic on a tiny model: answers are equal to the bit, and stored ones can be replayed."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.kernels.cpu.library import kernel_library
from tests.e2e.conftest import FAST_START
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.helpers.server_process import API_KEY, COMMAND, ServerProcess


@pytest.fixture(scope="module")
def exact_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    if kernel_library() is None:
        pytest.skip("the native kernels cannot be compiled here")
    config = llama_config(vocab_size=VOCAB_SIZE, max_position_embeddings=1024)
    folder = write_model_folder(tmp_path_factory.mktemp("model"), config)
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(
        log, str(folder), "--served-model-name", "tiny", "--deterministic", *FAST_START, "--threads", "2"
    ) as server:
        server.wait_ready()
        yield server
        print(server.log)  # noqa: T201 - shown by pytest where a test failed


def _replay(folder: Path, server: ServerProcess) -> tuple[int, dict[str, Any]]:
    command = [COMMAND, "replay", str(folder / "request"), str(folder / "response"), server.url, "--json"]
    environment = {**os.environ, "HEADRACE_CLIENT_KEY": API_KEY}
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_a_stored_answer_is_replayed(exact_server: ServerProcess, tmp_path: Path) -> None:
    body = {"prompt": "The river", "max_tokens": 12, "seed": 3, "temperature": 0.8, "logprobs": 2, "ignore_eos": True}
    with exact_server.client() as client:
        answer = client.post("/v1/completions", json=body).json()
    (tmp_path / "request").write_text(json.dumps(body))
    (tmp_path / "response").write_text(json.dumps(answer))
    code, result = _replay(tmp_path, exact_server)
    assert (code, result["differences"], result["has_logprobs"]) == (0, [], True)
    assert result["stored_fingerprint"].startswith("deterministic/")

    answer["choices"][0]["logprobs"]["token_logprobs"][7] -= 1e-15
    (tmp_path / "response").write_text(json.dumps(answer))
    code, result = _replay(tmp_path, exact_server)
    assert (code, [each["position"] for each in result["differences"]]) == (1, [7])
