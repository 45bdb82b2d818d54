"""What outlives a connection, and what outlives the server: with a real model, a real socket and a real kill."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import FAST_START
from tests.helpers.batches import jsonl, read_jsonl
from tests.helpers.deadline import wait_until
from tests.helpers.server_process import START_TIMEOUT_S, ServerProcess
from tests.helpers.sse import contents, events

CHAT = {
    "messages": [{"role": "user", "content": "Name five rivers."}],
    "max_tokens": 48,
    "temperature": 0,
    "stream": True,
}
NUM_LINES, NUM_DECISIONS = 16, 100
INPUT_NAMES, OUTPUT_NAMES = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
ENDLESS = {"input": "Tell me a story.", "background": True, "ignore_eos": True}


def _chunks(body: str) -> list[object]:
    return events(re.sub(r"^id: .*\n", "", body, flags=re.MULTILINE))


def test_a_cut_connection_is_taken_up_again(server: ServerProcess) -> None:
    with server.client() as client:
        whole = client.post("/v1/chat/completions", json=CHAT).text
        got = ""
        with client.stream("POST", "/v1/chat/completions", json={**CHAT, "resumable": True}) as response:
            for line in response.iter_lines():
                got += line + "\n"
                if got.count("\n\n") == 10:
                    break
        last = re.findall(r"^id: (\S+)$", got, re.MULTILINE)[-1]
        path = f"/v1/streams/{last.partition(':')[0]}"
        got += client.get(path, headers={"last-event-id": last}).text
        assert contents(_chunks(got)) == contents(_chunks(whole))

        cut = {**CHAT, "resumable": True, "max_tokens": 2000, "ignore_eos": True}
        with client.stream("POST", "/v1/chat/completions", json=cut) as response:
            next(response.iter_lines())
            stream_id = response.headers["x-stream-id"]
        assert server.metric("headrace_stream_runs") == 1
        client.delete(f"/v1/streams/{stream_id}").raise_for_status()
        wait_until(lambda: server.metric("headrace_num_requests_running") == 0, "the engine is idle")


def _begin_batch(client: httpx.Client) -> str:
    """Of NUM_LINES chats, whose last one takes longer than all others; its id."""
    bodies: list[dict[str, object]] = []
    for number in range(NUM_LINES):
        is_last = number == NUM_LINES - 1
        bodies.append(
            {
                "messages": [{"role": "user", "content": f"Count to {number}."}],
                "max_tokens": 128 if is_last else 8,
                "ignore_eos": is_last,
            }
        )
    return _begin(client, "/v1/chat/completions", bodies)


def _begin_decisions(client: httpx.Client) -> str:
    """Of NUM_DECISIONS decisions, which find all but the last token of their prompts in the cache; the batch's id."""
    question = {"type": "predicate", "instructions": "It floats."}
    bodies = [
        {"input": "A small raft.", "questions": [{**question, "name": str(number)}], "min_mass": 0}
        for number in range(NUM_DECISIONS)
    ]
    return _begin(client, "/v1/decisions", bodies)


def _begin(client: httpx.Client, endpoint: str, bodies: list[dict[str, object]]) -> str:
    lines = [
        {"custom_id": f"{number}", "method": "POST", "url": endpoint, "body": body}
        for number, body in enumerate(bodies)
    ]
    form = {"purpose": "batch"}
    file = client.post("/v1/files", data=form, files={"file": ("lines.jsonl", jsonl(lines))}).raise_for_status().json()
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
    batch_id: str = client.post("/v1/batches", json=body).raise_for_status().json()["id"]
    return batch_id


def _wait_answered(client: httpx.Client, batch_id: str, num_lines: int) -> None:
    def is_so() -> bool:
        return bool(client.get(f"/v1/batches/{batch_id}").json()["request_counts"]["completed"] >= num_lines)

    wait_until(is_so, f"{num_lines} lines are answered")


def _check_batch(client: httpx.Client, batch_id: str, num_lines: int) -> dict[str, Any]:
    """Wait for the end of the batch; each line is answered once. Return the answers' bodies by custom_id."""

    def has_ended() -> bool:
        return bool(client.get(f"/v1/batches/{batch_id}").json()["status"] == "completed")

    wait_until(has_ended, "the batch has ended", START_TIMEOUT_S)  # an engine starts in between
    batch = client.get(f"/v1/batches/{batch_id}").json()
    assert batch["request_counts"] == {"total": num_lines, "completed": num_lines, "failed": 0}
    assert batch["error_file_id"] is None
    output = read_jsonl(client.get(f"/v1/files/{batch['output_file_id']}/content").content)
    assert sorted(int(line["custom_id"]) for line in output) == list(range(num_lines))
    bodies = {line["custom_id"]: line["response"]["body"] for line in output}
    for total, names in (("input_tokens", INPUT_NAMES), ("output_tokens", OUTPUT_NAMES)):
        assert batch["usage"][total] == sum(
            next(body["usage"][name] for name in names if name in body["usage"]) for body in bodies.values()
        )
    return bodies


def test_what_was_stored_outlives_a_killed_server(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    with ServerProcess(tmp_path / "first", *FAST_START, *data) as server:
        server.wait_ready()
        with server.client() as client:
            body = {"input": "Name five rivers.", "max_output_tokens": 32, "temperature": 0}
            first = client.post("/v1/responses", json=body).json()
            body = {**body, "input": "And five cities.", "previous_response_id": first["id"]}
            second = client.post("/v1/responses", json=body).json()
            reused = second["usage"]["input_tokens_details"]["cached_tokens"]
            assert reused >= first["usage"]["total_tokens"] - 32  # all but the last blocks of the turn before
            batch_id = _begin_batch(client)
            decisions_id = _begin_decisions(client)
            _wait_answered(client, batch_id, 4)
            _wait_answered(client, decisions_id, 1)
            running = client.post("/v1/responses", json={**ENDLESS, "max_output_tokens": 2000}).json()
            assert running["status"] == "queued"
        server.process.kill()
        server.process.wait()
    with ServerProcess(tmp_path / "second", *FAST_START, *data) as server:
        server.wait_ready()
        with server.client() as client:
            assert client.get(f"/v1/responses/{second['id']}").json() == second
            assert client.get(f"/v1/responses/{running['id']}").json()["status"] == "failed"
            assert "1 background responses were interrupted" in server.log
            _wait_answered(client, batch_id, 8)
            assert client.get(f"/v1/batches/{batch_id}").json()["status"] == "in_progress"
            os.kill(server.engine_pid(), signal.SIGKILL)
            _check_batch(client, batch_id, NUM_LINES)
            decisions = _check_batch(client, decisions_id, NUM_DECISIONS)
            assert all(body["answers"][0]["name"] == custom_id for custom_id, body in decisions.items())
            server.wait_ready()
            drained = client.post("/v1/responses", json={**ENDLESS, "max_output_tokens": 100}).json()
        assert server.terminate() == 0
        assert "Traceback" not in server.log
    with ServerProcess(tmp_path / "third", *FAST_START, *data) as server, server.client() as client:
        answer = client.get(f"/v1/responses/{drained['id']}").json()  # which needs no model
        assert (answer["status"], answer["usage"]["output_tokens"]) == ("incomplete", 100)
