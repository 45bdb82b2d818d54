"""Named keys on a real server: prefixes, limits and usage of each are its own, and a key ends with its entry."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.answered_tokens import answered_tokens
from tests.helpers.deadline import wait_until
from tests.helpers.keys import bearer, write_keys
from tests.helpers.server_process import ServerProcess

STORY = "The river rises in the hills, where nobody lives but some shepherds and their dogs, and it runs for days. " * 2
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": STORY}], "max_tokens": 6, "ignore_eos": True}


def _ask(client: httpx.Client, name: str, **fields: Any) -> httpx.Response:
    response = client.post("/v1/chat/completions", json={**BODY, **fields}, headers=bearer(name))
    assert response.status_code == 200, response.text
    return response


def _cached(response: httpx.Response) -> int:
    return int(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_key_finds_its_own_cached_prefixes_and_no_others(server: ServerProcess) -> None:
    with server.client() as client:
        assert _cached(_ask(client, "ann")) == 0
        assert _cached(_ask(client, "ben")) == 0
        assert _cached(_ask(client, "ann")) > 16
        assert _cached(_ask(client, "ben")) > 16


def test_a_keys_usage_and_metrics_are_the_sums_of_its_answers(server: ServerProcess) -> None:
    def usage(client: httpx.Client) -> dict[str, int]:
        (bucket,) = client.get("/v1/usage", headers=bearer("ben")).json()["data"] or [{}]
        return {name: bucket.get(name, 0) for name in ("prompt_tokens", "cached_tokens", "output_tokens")}

    with server.client() as client, ThreadPoolExecutor(4) as pool:
        _ask(client, "ben")
        wait_until(lambda: usage(client)["output_tokens"] > 0, "it is counted")
        before = usage(client)
        fields = [{}, {"n": 3}, {"stream": True, "stream_options": {"include_usage": True}}, {"stop": "e"}]
        tokens = [answered_tokens(each) for each in pool.map(lambda each: _ask(client, "ben", **each), fields)]
        expected = {
            "prompt_tokens": before["prompt_tokens"] + sum(each.prompt for each in tokens),
            "cached_tokens": before["cached_tokens"] + sum(each.cached or 0 for each in tokens),
            "output_tokens": before["output_tokens"] + sum(each.output for each in tokens),
        }
        wait_until(lambda: usage(client)["output_tokens"] >= expected["output_tokens"], "all are counted")
        assert usage(client) == expected
        assert {name: server.metric(f"headrace_key_{name}_total", key="ben") for name in expected} == expected


def test_a_stream_tells_its_keys_limits(server: ServerProcess) -> None:
    with server.client() as client:
        limited = _ask(client, "ann", stream=True).headers
        assert not any("ratelimit" in name for name in _ask(client, "ben", stream=True).headers)
    assert (limited["x-ratelimit-limit-requests"], limited["x-ratelimit-limit-tokens"]) == ("1000", "100000")
    assert 0 < int(limited["x-ratelimit-remaining-tokens"]) <= 100_000  # full again where the first token takes long


def test_a_new_key_is_taken_and_a_removed_one_refused_while_it_runs(server: ServerProcess, keys_file: Path) -> None:
    entries = json.loads(keys_file.read_text())["keys"]

    def status(name: str) -> int:
        return int(client.get("/v1/models", headers=bearer(name)).status_code)

    with server.client() as client:
        assert status("ben") == 200
        try:
            write_keys(keys_file, *(each for each in entries if each["name"] != "ben"))
            wait_until(lambda: status("ben") == 401, "the key is refused")
            assert status("ann") == 200
        finally:
            write_keys(keys_file, *entries)
        wait_until(lambda: status("ben") == 200, "the key is taken again")
