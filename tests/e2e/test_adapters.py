"""Adapters of the demo model: in one batch with it, replaced and unloaded while streams run, and after a crash."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.helpers.demo_adapters import save_demo_adapter
from tests.helpers.server_process import ServerProcess

_PROMPT = {
    **{"prompt": "Once upon a time, the river", "temperature": 0, "ignore_eos": True},
    **{"logprobs": 5, "return_tokens_as_token_ids": True},
}
_TOLERANCE = 1e-2  # of logarithms of probabilities: in fp32, steps of other sizes round otherwise
_MANY = 2000  # tokens: a stream that is open until its client goes


class _Token(NamedTuple):
    name: str
    top: dict[str, float]  # logarithms of the probabilities of the likeliest


def _tokens(choice: dict[str, Any]) -> list[_Token]:
    scores = choice["logprobs"]
    return [_Token(name, top) for name, top in zip(scores["tokens"], scores["top_logprobs"], strict=True)]


def _complete(client: httpx.Client, model: str, max_tokens: int = 8) -> list[_Token]:
    body = {"model": model, "max_tokens": max_tokens, **_PROMPT}
    answer = client.post("/v1/completions", json=body).json()
    assert answer["model"] == model, answer
    tokens = _tokens(answer["choices"][0])
    assert len(tokens) == max_tokens
    return tokens


def _streamed(lines: Iterator[str]) -> Iterator[_Token]:
    for line in lines:
        if line.startswith("data: {"):
            yield from _tokens(json.loads(line.removeprefix("data: "))["choices"][0])


def _agree(first: list[_Token], second: list[_Token]) -> bool:
    """Whether one model, or one adapter, gave both answers, as far as both go: their probabilities are the same up to
    the first token that they chose differently, as they may where two are equally likely."""
    for one, other in zip(first, second, strict=False):
        common = one.top.keys() & other.top.keys()
        if not common or any(abs(one.top[name] - other.top[name]) > _TOLERANCE for name in common):
            return False
        if one.name != other.name:
            return True
    return True


def _load(client: httpx.Client, name: str, path: Path, *, in_place: bool = False) -> None:
    body = {"lora_name": name, "lora_path": str(path), "load_inplace": in_place}
    response = client.post("/v1/load_lora_adapter", json=body)
    assert response.status_code == 200, response.text


def _running_adapters(client: httpx.Client) -> str:
    """Those of the last step, as the metrics have them."""
    lines = client.get("/metrics").text.splitlines()
    (info,) = (line for line in lines if line.startswith("headrace_lora_requests_info{"))
    return info.partition('running_lora_adapters="')[2].partition('"')[0]


def test_adapters_are_served_replaced_and_unloaded_beside_the_model(server: ServerProcess, adapter_dir: Path) -> None:
    one, two = (save_demo_adapter(adapter_dir / name, seed) for seed, name in ((11, "one"), (12, "two")))
    with server.client() as client:
        _load(client, "ft:demo:one", one)
        _load(client, "ft:demo:two", two)
        names = ["demo", "ft:demo:one", "ft:demo:two"]
        alone = [_complete(client, name, 32 if name == "ft:demo:one" else 8) for name in names]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda name: _complete(client, name), names))
        for i in range(3):
            assert [_agree(together[i], other) for other in alone] == [i == j for j in range(3)]
        body = {"model": "ft:demo:one", "max_tokens": _MANY, "stream": True, **_PROMPT}
        with client.stream("POST", "/v1/completions", json=body) as response:
            tokens = _streamed(response.iter_lines())
            streamed = [next(tokens)]
            _load(client, "ft:demo:one", two, in_place=True)
            assert _agree(_complete(client, "ft:demo:one"), alone[2])
            assert client.post("/v1/unload_lora_adapter", json={"lora_name": "ft:demo:one"}).status_code == 200
            assert _running_adapters(client) == "ft:demo:one"  # the stream, with the version that it began with
            streamed += [next(tokens) for _ in alone[1][1:]]
        assert _agree(streamed, alone[1])
        assert client.post("/v1/completions", json={"model": "ft:demo:one", **_PROMPT}).status_code == 404
        assert client.delete("/v1/models/ft:demo:two").json()["deleted"] is True
        assert _agree(_complete(client, "demo"), alone[0])
