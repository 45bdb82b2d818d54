"""Adapters of the demo model: in one batch with it, replaced and unloaded while streams run, and after a crash."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.helpers.demo_adapters import save_demo_adapter
from tests.helpers.server_process import ServerProcess
from tests.helpers.sse import events

_PROMPT = {"prompt": "Once upon a time, the river", "temperature": 0, "ignore_eos": True}


def _complete(client: httpx.Client, model: str, max_tokens: int = 8) -> str:
    body = {"model": model, "max_tokens": max_tokens, **_PROMPT}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["model"] == model, answer
    text: str = answer["choices"][0]["text"]
    return text


def _load(client: httpx.Client, name: str, path: Path, *, in_place: bool = False) -> None:
    body = {"lora_name": name, "lora_path": str(path), "load_inplace": in_place}
    response = client.post("/v1/load_lora_adapter", json=body)
    assert response.status_code == 200, response.text


def test_adapters_are_served_replaced_and_unloaded_beside_the_model(server: ServerProcess, adapter_dir: Path) -> None:
    one, two = (save_demo_adapter(adapter_dir / name, seed) for seed, name in ((11, "one"), (12, "two")))
    with server.client() as client:
        _load(client, "ft:demo:one", one)
        _load(client, "ft:demo:two", two)
        names = ["demo", "ft:demo:one", "ft:demo:two"]
        alone = {name: _complete(client, name) for name in names}
        assert len(set(alone.values())) == 3
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda name: _complete(client, name), names))
        assert together == [alone[name] for name in names]
        body = {"model": "ft:demo:one", "max_tokens": 32, "stream": True, **_PROMPT}
        with client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            first = next(lines)
            _load(client, "ft:demo:one", two, in_place=True)
            assert _complete(client, "ft:demo:one") == alone["ft:demo:two"]
            assert client.post("/v1/unload_lora_adapter", json={"lora_name": "ft:demo:one"}).status_code == 200
            text = "\n".join([first, *lines])
        chunks = [chunk for chunk in events(text + "\n") if chunk != "[DONE]"]
        streamed = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        assert streamed.startswith(alone["ft:demo:one"])
        assert client.post("/v1/completions", json={"model": "ft:demo:one", **_PROMPT}).status_code == 404
        assert client.delete("/v1/models/ft:demo:two").json()["deleted"] is True
        assert _complete(client, "demo") == alone["demo"]
