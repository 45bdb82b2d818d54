"""Many streams at once: the same texts as alone, and clients that leave free their places."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.helpers.deadline import wait_until
from tests.helpers.server_process import API_KEY, ServerProcess

SUBJECTS = [
    *("river", "wheel", "mill", "stone", "water", "stream", "bridge", "valley"),
    *("grain", "bread", "oven", "baker", "wind", "sail", "boat", "harbor"),
]
PROMPTS = [f"{start} {subject}" for subject in SUBJECTS for start in ("Once upon a time, the", "List three uses of a")]
ENDLESS = {"prompt": "Count: one, two, three,", "max_tokens": 4000, "ignore_eos": True}


def complete(client: httpx.Client, prompt: str) -> str:
    """The greedy text, streamed."""
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "stream": True}
    text, events = "", []
    with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    for event in events:
        text += json.loads(event)["choices"][0]["text"]
    return text


def is_at_rest(server: ServerProcess) -> bool:
    gauges = ("headrace_num_requests_running", "headrace_num_requests_waiting", "headrace_kv_cache_usage_perc")
    return all(server.metric(name) == 0 for name in gauges)


def _until_freed(server: ServerProcess, num_aborted: float) -> None:
    """num_aborted: requests, before the one whose client has left."""
    freed_s = wait_until(lambda: is_at_rest(server), "the running gauge is 0 after the client left")
    print(f"\nclient left: all gauges 0 after {freed_s:.2f} s")  # noqa: T201 - a figure for docs/reliability.md
    reason = {"finished_reason": "abort"}
    wait_until(lambda: server.metric("headrace_request_success_total", **reason) > num_aborted, "it is counted")
    assert server.metric("headrace_request_success_total", **reason) == num_aborted + 1


def test_32_concurrent_streams_give_the_texts_of_each_alone(server: ServerProcess) -> None:
    assert len(set(PROMPTS)) == 32
    with server.client() as client:
        alone = [complete(client, prompt) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda prompt: complete(client, prompt), PROMPTS))
    assert together == alone
    assert len(set(alone)) > 16  # the prompts do lead to different texts
    wait_until(lambda: is_at_rest(server), "all gauges are 0 after the last stream")


def test_a_stream_s_client_that_leaves_frees_its_place(server: ServerProcess) -> None:
    aborted = server.metric("headrace_request_success_total", finished_reason="abort")
    with (
        server.client() as client,
        client.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as response,
    ):
        events = response.iter_lines()  # which closes the connection when nothing refers to it any more
        assert next(events).startswith('data: {"id":')  # and no error
        assert server.metric("headrace_num_requests_running") == 1
    _until_freed(server, aborted)


def test_a_plain_request_s_client_that_leaves_frees_its_place(server: ServerProcess) -> None:
    aborted = server.metric("headrace_request_success_total", finished_reason="abort")
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    headers = {"content-type": "application/json", "authorization": f"Bearer {API_KEY}"}
    connection.request("POST", "/v1/completions", json.dumps(ENDLESS), headers)
    wait_until(lambda: server.metric("headrace_num_requests_running") == 1, "the request runs")
    connection.close()
    _until_freed(server, aborted)
