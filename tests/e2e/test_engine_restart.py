"""The engine dies or hangs with a full queue: streams that have begun go on, and the others complete."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import FAST_START
from tests.helpers.deadline import DEADLINE_S, wait_until
from tests.helpers.server_process import ServerProcess

NUM_STREAMING, NUM_WAITING, NUM_LATE = 2, 8, 2
NUM_TOKENS = 112  # of a stream: it must not end while the others are sent
HANG_TIMEOUT_S = 8.0  # a step takes less, also on a machine that has other work


@pytest.fixture(scope="module")
def narrow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two requests run, and others wait."""
    log = tmp_path_factory.mktemp("narrow") / "log"
    options = ("--max-num-seqs", str(NUM_STREAMING), "--engine-hang-timeout", str(HANG_TIMEOUT_S))
    with ServerProcess(log, "--dtype", "float32", *FAST_START, *options) as server:
        server.wait_ready()
        yield server
        print(server.log)  # noqa: T201 - shown by pytest where a test failed


def _stream(server: ServerProcess, began: threading.Semaphore) -> list[dict[str, Any]]:
    """The events of a long stream."""
    body = {"prompt": "The engine", "max_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 0, "stream": True}
    events = []
    with server.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line.removeprefix("data: ")))
                if len(events) == 2:
                    began.release()
    return events


def _text(events: list[dict[str, Any]]) -> str:
    return "".join(each["choices"][0]["text"] for each in events)


def _complete(server: ServerProcess, number: int, *, stream: bool) -> tuple[int, str]:
    """Status and text of a short request."""
    body = {"prompt": f"Number {number} is", "max_tokens": 8, "ignore_eos": True, "temperature": 0, "stream": stream}
    with server.client() as client:
        response = client.post("/v1/completions", json=body, timeout=180)
    if not stream or response.status_code != 200:
        return response.status_code, response.json()["choices"][0]["text"] if response.status_code == 200 else ""
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    return (200, "".join(each["choices"][0]["text"] for each in events)) if "error" not in events[-1] else (503, "")


@pytest.fixture(scope="module")
def alone(narrow_server: ServerProcess) -> tuple[str, list[tuple[int, str]]]:
    """The text of a stream, and status and text of each short request, with nothing beside them."""
    completed = [_complete(narrow_server, number, stream=False) for number in range(NUM_WAITING)]
    assert {status for status, _ in completed} == {200}
    return _text(_stream(narrow_server, threading.Semaphore(0))), completed


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_no_request_is_lost(
    narrow_server: ServerProcess, alone: tuple[str, list[tuple[int, str]]], fault: signal.Signals
) -> None:
    server = narrow_server
    server.wait_ready()
    began = threading.Semaphore(0)
    reason = "crash" if fault is signal.SIGKILL else "hang"
    restarts = server.metric("headrace_engine_restarts_total", reason=reason)
    prompt_tokens = server.metric("headrace_prompt_tokens_total")
    ended = {
        name: server.metric("headrace_request_success_total", finished_reason=name) for name in ("length", "error")
    }
    engine = server.engine_pid()
    with ThreadPoolExecutor(NUM_STREAMING + NUM_WAITING + NUM_LATE) as threads:
        streaming = [threads.submit(_stream, server, began) for _ in range(NUM_STREAMING)]
        for _ in range(NUM_STREAMING):
            assert began.acquire(timeout=DEADLINE_S)
        waiting = [threads.submit(_complete, server, n, stream=bool(n % 2)) for n in range(NUM_WAITING)]
        waits = lambda: server.metric("headrace_num_requests_waiting") == NUM_WAITING  # noqa: E731
        wait_until(
            lambda: waits() or any(each.done() for each in streaming), "eight wait, or a stream has ended already"
        )

        os.kill(engine, fault)
        has_restarted = lambda: server.metric("headrace_engine_restarts_total", reason=reason) > restarts  # noqa: E731
        with server.client() as client:
            wait_until(lambda: client.get("/health").status_code == 503 or has_restarted(), "the server is unwell")
        late = [threads.submit(_complete, server, n, stream=bool(n % 2)) for n in range(NUM_LATE)]
        stream_alone, completed_alone = alone
        assert [_text(each.result(180)) for each in streaming] == [stream_alone] * NUM_STREAMING
        assert [each.result(180) for each in waiting] == completed_alone
        assert [each.result(180) for each in late] == completed_alone[:NUM_LATE]
    assert server.metric("headrace_engine_restarts_total", reason=reason) == restarts + 1
    assert server.engine_pid() != engine
    # Each request counts once, and so does its prompt.
    assert server.metric("headrace_request_success_total", finished_reason="length") == (
        ended["length"] + NUM_WAITING + NUM_STREAMING + NUM_LATE
    )
    assert server.metric("headrace_request_success_total", finished_reason="error") == ended["error"]
    counted = server.metric("headrace_prompt_tokens_total") - prompt_tokens
    assert counted == NUM_STREAMING * _num_tokens(server, "The engine") + sum(
        _num_tokens(server, f"Number {number} is") for number in (*range(NUM_WAITING), *range(NUM_LATE))
    )
    assert server.metric("headrace_num_requests_waiting") == 0
    if fault is signal.SIGSTOP:
        assert "made no progress" in server.log
        with pytest.raises(ProcessLookupError):
            os.kill(engine, signal.SIGCONT)


def _num_tokens(server: ServerProcess, text: str) -> int:
    with server.client() as client:
        answer = client.post("/tokenize", json={"prompt": text})
    count = answer.json()["count"]
    assert isinstance(count, int)
    return count
