"""benchmarks/openvino_server.py in front of a stand-in for OpenVINO: it speaks as the load generator expects."""

import asyncio
import enum
import importlib
import socket
import sys
import types
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from server.loadtest.client import LoadClient
from server.loadtest.config import LoadConfig

pytestmark = pytest.mark.fast


class Status(enum.Enum):
    RUNNING = 0
    FINISHED = 1


class Handle:
    """Counts up from the sum of the prompt, a token a step."""

    def __init__(self, ids: np.ndarray, config: Any) -> None:
        self._next = int(ids.sum())
        self._left = config.max_new_tokens
        self._unread: list[int] = []

    def advance(self) -> None:
        if self._left:
            self._left -= 1
            self._unread.append(self._next % 100)
            self._next += 1

    def can_read(self) -> bool:
        return bool(self._unread)

    def read(self) -> dict[int, Any]:
        ids, self._unread = self._unread, []
        return {0: types.SimpleNamespace(generated_ids=ids)}

    def get_status(self) -> Status:
        return Status.RUNNING if self._left else Status.FINISHED

    def stop(self) -> None:
        self._left = 0


class Pipeline:
    def __init__(self) -> None:
        self.handles: list[Handle] = []
        self.most_running = 0

    def get_config(self) -> Any:
        return types.SimpleNamespace(eos_token_id=2, stop_token_ids={2})

    def get_tokenizer(self) -> Any:
        return None

    def add_request(self, _: int, ids: np.ndarray, config: Any) -> Handle:
        self.handles.append(Handle(ids, config))
        return self.handles[-1]

    def step(self) -> None:
        running = [handle for handle in self.handles if handle.get_status() is Status.RUNNING]
        self.most_running = max(self.most_running, len(running))
        for handle in running:
            handle.advance()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    genai = types.SimpleNamespace(
        GenerationStatus=Status, GenerationConfig=types.SimpleNamespace, ContinuousBatchingPipeline=Pipeline
    )
    monkeypatch.setitem(sys.modules, "openvino_genai", genai)
    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(Tensor=lambda array: array))
    monkeypatch.delitem(sys.modules, "benchmarks.openvino_server", raising=False)
    yield importlib.import_module("benchmarks.openvino_server")
    del sys.modules["benchmarks.openvino_server"]


def test_streams_run_together_and_count_their_tokens(module: Any, tmp_path: Path, port: int) -> None:
    tokenizer = Tokenizer(WordLevel({f"t{index} ": index for index in range(100)}, unk_token="t0 "))
    tokenizer.decoder = Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    pipeline = Pipeline()

    async def run() -> None:
        server = asyncio.create_task(module.Server(tmp_path, pipeline).run(port))
        url = f"http://127.0.0.1:{port}"
        async with LoadClient(LoadConfig(url=url), None) as client:
            while True:
                await asyncio.sleep(0)
                try:
                    async with httpx.AsyncClient(trust_env=False) as http:
                        assert (await http.get(f"{url}/health")).json() == {"status": "ok"}
                    break
                except httpx.ConnectError:
                    continue
            assert await client.find_model() == tmp_path.name
            traces = await asyncio.gather(*(client.send([5, index], 300) for index in range(3)))
        for index, trace in enumerate(traces):
            assert trace.error is None
            assert (trace.prompt_tokens, trace.output_tokens) == (2, 300)
            assert trace.text == "".join(f"t{(5 + index + step) % 100} " for step in range(300))
        body = {"prompt": [1, 2], "max_tokens": 2}
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            answer = (await http.post("/v1/completions", json=body)).json()
            assert answer["choices"][0] == {"index": 0, "text": "t3 t4 ", "finish_reason": "stop"}
            assert (await http.post("/v1/completions", content=b"{")).status_code == 400
            assert (await http.get("/nowhere")).status_code == 404
        server.cancel()

    asyncio.run(run())
    assert pipeline.most_running == 3


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
