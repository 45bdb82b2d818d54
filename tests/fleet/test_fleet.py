"""A real fleet: lost replicas and engines cost no request that has not begun to be answered, and a stop drains.

Run by `make test-fleet`, which installs Ray Serve; skipped where it is not installed.
"""

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import httpx
import pytest

from tests.fleet.conftest import MODEL, REPLICA_PORT, RunningFleet, headrace

_LONG_PROMPT = [3 + number % 200 for number in range(10_000)]  # over 40 kB as JSON
_SETTLED_S = 5.0  # until only requests that wait for the stopped engine are open; if others are, they test the same


def ask(fleet: RunningFleet, body: dict[str, Any]) -> httpx.Response:
    with fleet.client() as client:
        return client.post("/v1/completions", json={"model": MODEL, "ignore_eos": True, **body})


def stream(fleet: RunningFleet, max_tokens: int, began: threading.Semaphore) -> str:
    """Return the text of a whole stream; `began` is released after its first event."""
    body = {"model": MODEL, "prompt": "a", "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    with fleet.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if len(lines) == 1:
                began.release()
    return "\n".join(lines)


def test_status_lists_replicas_whose_metrics_can_be_scraped(fleet: RunningFleet) -> None:
    fleet.wait_for_replicas(2)
    assert ask(fleet, {"prompt": "a", "max_tokens": 2}).status_code == 200
    command = headrace("fleet", "status", *fleet.cluster(), "--replica-port", str(REPLICA_PORT))
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "status: RUNNING" in shown
    urls = [word for line in shown.splitlines() for word in line.split() if word.startswith("http://")]
    assert len(urls) == 2
    for url in urls:
        assert "headrace_num_requests_running" in httpx.get(f"{url}/metrics").text


def test_what_needs_one_server_is_refused_by_name(fleet: RunningFleet) -> None:
    with fleet.client() as client:
        response = client.get("/v1/files")
    assert response.status_code == 404
    assert "files need one server" in response.json()["error"]["message"]


def test_no_waiting_request_is_lost_with_its_replica(fleet: RunningFleet) -> None:
    fleet.wait_for_replicas(2)
    replica, engine = next(iter(fleet.engines().items()))
    os.kill(engine, signal.SIGSTOP)  # what this replica has accepted waits
    body = {"prompt": _LONG_PROMPT, "max_tokens": 2}
    with ThreadPoolExecutor(12) as threads:
        answers = [threads.submit(ask, fleet, body) for _ in range(12)]
        while not wait(answers, timeout=_SETTLED_S).not_done:  # the front has not sent it any yet
            answers = [threads.submit(ask, fleet, body) for _ in range(12)]
        os.kill(replica, signal.SIGKILL)
        statuses = [answer.result(180).status_code for answer in answers]
    assert statuses == [200] * 12
    fleet.wait_for_replicas(2, other_than=replica)


def test_an_engines_death_costs_no_request(fleet: RunningFleet) -> None:
    fleet.wait_for_replicas(2)
    engine = next(iter(fleet.engines().values()))
    began = threading.Semaphore(0)
    with ThreadPoolExecutor(4) as threads:
        streams = [threads.submit(stream, fleet, 400, began) for _ in range(4)]
        for _ in streams:
            assert began.acquire(timeout=60)
        os.kill(engine, signal.SIGKILL)
        statuses = [ask(fleet, {"prompt": "a", "max_tokens": 2}).status_code for _ in range(20)]
        texts = [each.result(180) for each in streams]
    assert statuses == [200] * 20
    assert all(text.rstrip().endswith("data: [DONE]") for text in texts)
    fleet.wait_for_replicas(2)


def test_stop_lets_running_requests_end(fleet: RunningFleet) -> None:
    fleet.wait_for_replicas(2)
    began = threading.Semaphore(0)
    with ThreadPoolExecutor(2) as threads:
        streams = [threads.submit(stream, fleet, 1000, began) for _ in range(2)]
        for _ in streams:
            assert began.acquire(timeout=60)
        subprocess.run(headrace("fleet", "stop", *fleet.cluster()), check=True, timeout=180)
        texts = [each.result(60) for each in streams]
    assert all(text.rstrip().endswith("data: [DONE]") for text in texts)
    assert fleet.process.wait(60) == 0


pytestmark = pytest.mark.usefixtures("fleet")
