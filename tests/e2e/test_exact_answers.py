"""A server with --deterministic on a tiny model: answers are equal to the bit alone, under load, after its engine was
killed, and when a stored one is replayed."""

import asyncio
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.exact_answers import compare, make_requests, send
from models.kernels.cpu.library import kernel_library
from tests.e2e.conftest import FAST_START
from tests.helpers.checkpoints import llama_config
from tests.helpers.engines import make_prompt
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


def test_answers_under_load_are_those_alone(exact_server: ServerProcess) -> None:
    ids = [3 + token % (VOCAB_SIZE - 3) for token in make_prompt(2000)]
    requests = make_requests(ids, 12, 8)
    alone = asyncio.run(send(exact_server.url, requests, 1, key=API_KEY))
    together = asyncio.run(send(exact_server.url, requests, 12, key=API_KEY))
    assert compare(alone, together) == {}
    assert compare(alone, [*together[1:], together[0]])  # other answers differ


def _stream(server: ServerProcess, body: dict[str, Any], begun: threading.Semaphore) -> bytes:
    """Return all events; `begun` is released after the third."""
    lines: list[str] = []
    with server.client() as client, client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        for line in response.iter_lines():
            lines.append(line)
            if sum(each.startswith("data: {") for each in lines[:8]) == 3 and line.startswith("data: {"):
                begun.release()
    return "\n".join(lines).encode()


def test_answers_survive_the_engine_to_the_bit(exact_server: ServerProcess) -> None:
    body = {"prompt": "The river", "max_tokens": 500, "ignore_eos": True, "logprobs": 3}
    sampling: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 0.9, "seed": 4}, {"seed": 5, "top_p": 0.8}]
    bodies = [{**body, **each} for each in sampling]
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(len(bodies)) as threads:
        whole = list(threads.map(lambda body: _stream(exact_server, body, threading.Semaphore(0)), bodies))
        engine, restarts = exact_server.engine_pid(), exact_server.metric("headrace_engine_restarts_total")
        for _ in range(9):
            streams = [threads.submit(_stream, exact_server, body, begun) for body in bodies]
            for _ in bodies:
                assert begun.acquire(timeout=60)
            os.kill(engine, signal.SIGSTOP)
            if not any(stream.done() for stream in streams):
                break
            os.kill(engine, signal.SIGCONT)  # some began late, on a busy machine: once more
            for stream in streams:
                stream.result(180)
        os.kill(engine, signal.SIGKILL)
        answers = [stream.result(180) for stream in streams]
    assert compare(whole, answers) == {}
    assert exact_server.metric("headrace_engine_restarts_total") == restarts + 1


def test_a_client_continues_an_answer_by_its_token_ids(exact_server: ServerProcess) -> None:
    body = {"max_tokens": 40, "seed": 8, "temperature": 0.9, "ignore_eos": True, "return_token_ids": True}
    with exact_server.client() as client:
        whole = client.post("/v1/completions", json={**body, "prompt": "The river"}).json()["choices"][0]
        known = [*whole["prompt_token_ids"], *whole["token_ids"][:15]]
        rest = client.post("/v1/completions", json={**body, "prompt": known, "max_tokens": 25}).json()["choices"][0]
        other = client.post("/v1/completions", json={**body, "prompt": known, "seed": 9}).json()["choices"][0]
    assert rest["token_ids"] == whole["token_ids"][15:]
    assert other["token_ids"][:25] != whole["token_ids"][15:]
