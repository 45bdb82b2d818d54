"""The engine process is killed in mid-stream: the server says so, starts it again, and the streams go on."""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.helpers.deadline import wait_until
from tests.helpers.server_process import ServerProcess, state
from tests.helpers.sse import events

NUM_TOKENS = 64
_PROMPT = {"prompt": "The engine", "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True}
BODIES: dict[str, dict[str, Any]] = {
    "greedy": {**_PROMPT, "temperature": 0},
    "seeded": {**_PROMPT, "temperature": 0.9, "top_p": 0.9, "seed": 5},
    "penalized": {**_PROMPT, "temperature": 0, "frequency_penalty": 1.0, "logprobs": 1},
    "resumable": {**_PROMPT, "prompt": "A river", "temperature": 0.8, "min_p": 0.05, "seed": 6, "resumable": True},
    "with an adapter": {**_PROMPT, "model": "adapted", "temperature": 0},
    "without a seed": {**_PROMPT, "temperature": 1.0, "stream_options": {"include_usage": True}},
}


def _stream(server: ServerProcess, body: dict[str, Any], begun: threading.Semaphore) -> list[Any]:
    """All events; `begun` is released after the third."""
    text, num_events = "", 0
    with server.client() as client, client.stream("POST", "/v1/completions", json=body, timeout=180) as response:
        for line in response.iter_lines():
            text += line + "\n"
            num_events += line.startswith("data: {")
            if num_events == 3 and line.startswith("data: {"):
                begun.release()
    return events(re.sub(r"^id: .*\n", "", text, flags=re.MULTILINE))


def _answer(chunks: list[Any]) -> tuple[str, str, list[str]]:
    """Text, finish reason and scored tokens."""
    choices = [choice for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"]]
    tokens = [token for choice in choices if choice.get("logprobs") for token in choice["logprobs"]["tokens"]]
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"], tokens


def _counted(server: ServerProcess, before: tuple[float, ...] | None = None) -> tuple[float, ...]:
    """Requests, their tokens and those of their prompts; once those of BODIES have been counted since `before`."""
    if before is not None:
        total = before[0] + len(BODIES)
        wait_until(lambda: server.metric("headrace_request_success_total") >= total, "all are counted")
    names = ("request_success_total", "generation_tokens_total", "prompt_tokens_total")
    return tuple(server.metric(f"headrace_{name}") for name in names)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_streams_survive(server: ServerProcess, fault: signal.Signals) -> None:
    """A killed engine, and processes that stand still for a while."""
    begun = threading.Semaphore(0)
    engine, restarts = server.engine_pid(), server.metric("headrace_engine_restarts_total")
    was_killed = fault is signal.SIGKILL
    with ThreadPoolExecutor(len(BODIES)) as threads, server.client() as client:
        before = _counted(server)
        streams = {name: threads.submit(_stream, server, body, begun) for name, body in BODIES.items()}
        whole = {name: _answer(stream.result(180)) for name, stream in streams.items()}
        between = _counted(server, before)
        assert between[1] == before[1] + len(BODIES) * NUM_TOKENS

        begun = threading.Semaphore(0)
        streams = {name: threads.submit(_stream, server, body, begun) for name, body in BODIES.items()}
        for _ in streams:
            assert begun.acquire(timeout=60)
        if not was_killed:  # the API process first
            os.kill(server.process.pid, fault)
            wait_until(lambda: state(server.process.pid) == "T", "it stands still")
            os.kill(server.process.pid, signal.SIGCONT)
        os.kill(engine, fault)
        if was_killed:
            has_restarted = lambda: server.metric("headrace_engine_restarts_total") > restarts  # noqa: E731
            wait_until(lambda: client.get("/health").status_code == 503 or has_restarted(), "the server is unwell")
        assert client.get("/live").status_code == 200
        if not was_killed:
            os.kill(engine, signal.SIGCONT)
        chunks = {name: stream.result(180) for name, stream in streams.items()}
        assert client.get("/health").status_code == 200

    answers = {name: _answer(each) for name, each in chunks.items()}
    assert answers.pop("without a seed")[1] == whole.pop("without a seed")[1] == "length"
    assert chunks["without a seed"][-2]["usage"]["completion_tokens"] == NUM_TOKENS
    assert answers == whole
    assert (server.engine_pid() != engine) == was_killed
    assert server.metric("headrace_engine_restarts_total") == restarts + was_killed
    counted = [now - then for now, then in zip(_counted(server, between), between, strict=True)]
    assert counted == [now - then for now, then in zip(between, before, strict=True)]  # each token counts once
    assert server.metric("headrace_num_requests_running") == 0
