"""Rivals of headrace's embeddings: sentence-transformers in a process of its own, or llama-server."""

import base64
import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np

from benchmarks.servers import Server, started

BATCH = 32  # texts of a request
Vectors = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
_CONTEXT = 512  # tokens of a text
_START_TIMEOUT_S = 300.0


class Rival(Protocol):
    @property
    def name(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> tuple[float, Vectors]:
        """Return seconds and vectors."""

    def pids(self) -> set[int]:
        """Return the ids of the rival's processes."""

    def frozen(self) -> AbstractContextManager[None]:
        """Keep the rival from using processor time within the context."""


class SentenceTransformers:
    name = "sentence-transformers"

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("sentence-transformers has ended; its error is above")
        answer: dict[str, object] = json.loads(line)
        return answer

    def pids(self) -> set[int]:
        return {self._process.pid}

    def embed(self, texts: Sequence[str]) -> tuple[float, Vectors]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"texts": texts}) + "\n")
        self._process.stdin.flush()
        answer = self.read()
        vectors = np.frombuffer(base64.b64decode(str(answer["vectors"])), "<f4")
        return float(str(answer["seconds"])), vectors.reshape(len(texts), -1)

    def frozen(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()  # it waits for texts


@contextlib.contextmanager
def sentence_transformers(python: str, folder: Path, threads: int, dtype: str) -> Iterator[Rival]:
    script = Path(__file__).with_name("sentence_transformers_worker.py")
    command = [python, str(script), str(folder), str(threads), dtype]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "true"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        worker = SentenceTransformers(process)
        worker.read()
        try:
            yield worker
        finally:
            process.terminate()


class LlamaServer:
    name = "llama-server"

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self._server = server
        self._client = client

    def pids(self) -> set[int]:
        return self._server.pids()

    def embed(self, texts: Sequence[str]) -> tuple[float, Vectors]:
        return embed(self._client, self._server, texts)

    def frozen(self) -> AbstractContextManager[None]:
        return self._server.frozen()


@contextlib.contextmanager
def llama_server(program: str, gguf: Path, threads: int, port: int, slots: int) -> Iterator[Rival]:
    """Start llama-server. slots: sequences that it computes together."""
    command = (
        f"{shlex.quote(program)} -m {shlex.quote(str(gguf))} --embeddings --host 127.0.0.1 --port {{port}} "
        f"-t {threads} -tb {threads} -np {slots} -c {slots * _CONTEXT} -b {slots * _CONTEXT} -ub {slots * _CONTEXT}"
    )
    with started(command, port, _START_TIMEOUT_S) as server, httpx.Client(timeout=_START_TIMEOUT_S) as client:
        yield LlamaServer(server, client)


def embed(client: httpx.Client, server: Server, texts: Sequence[str]) -> tuple[float, Vectors]:
    """Return seconds and vectors of requests with BATCH texts, one after the other."""
    parts = []
    began_s = time.perf_counter()
    for first in range(0, len(texts), BATCH):
        body = {"input": list(texts[first : first + BATCH]), "encoding_format": "base64", "truncate_prompt_tokens": -1}
        answer = client.post(f"{server.url}/v1/embeddings", json=body)
        answer.raise_for_status()
        parts += [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer.json()["data"]]
    return time.perf_counter() - began_s, np.stack(parts)
