"""The engine process is killed: streams end with an error, the server says so, and comes back."""

import json
import os
import signal
import time

from tests.helpers.server_process import ServerProcess, wait_until

BODY = {"prompt": "The engine", "max_tokens": 4000, "ignore_eos": True, "stream": True}


def test_killed_engine_ends_streams_with_an_error_and_is_started_again(server: ServerProcess) -> None:
    restarts = server.metric("headrace_engine_restarts_total")
    old_engine = server.engine_pid()
    with server.client() as client, client.stream("POST", "/v1/completions", json=BODY) as response:
        lines = (line for line in response.iter_lines() if line)
        for _ in range(3):
            assert "error" not in json.loads(next(lines).removeprefix("data: "))
        generated = server.metric("headrace_generation_tokens_total")

        os.kill(old_engine, signal.SIGKILL)
        killed_s = time.monotonic()
        rest = list(lines)

        assert time.monotonic() - killed_s < 5
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "engine_died"
        health = client.get("/health")
        assert health.status_code == 503
        assert client.get("/live").status_code == 200

        wait_until(lambda: client.get("/health").status_code == 200, 120, "the engine is started again")
        assert server.engine_pid() != old_engine
        answer = client.post("/v1/completions", json={"prompt": "Again", "max_tokens": 4, "ignore_eos": True})
        assert answer.json()["usage"]["completion_tokens"] == 4
    assert server.metric("headrace_engine_restarts_total") == restarts + 1
    assert server.metric("headrace_generation_tokens_total") >= generated + 4
    assert server.metric("headrace_num_requests_running") == 0
