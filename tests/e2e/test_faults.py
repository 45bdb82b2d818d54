"""Faults in the engine, injected while streams run: those that must end do, and the others have the texts of always."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.e2e.conftest import FAST_START
from tests.helpers.server_process import ServerProcess

NUM_STREAMS, NUM_TOKENS = 6, 96
# A step that fails counts once more for each of its requests, which are then computed alone.
FAULTS = "step:raise:20,step:memory:36,logits:nan:44,request:raise:52,output:delay=0.2:56,step:hang=0.3:66"


def _stream(server: ServerProcess, number: int) -> tuple[str, str | None]:
    """Text, and the code of the error that ended it."""
    body: dict[str, Any] = {
        "prompt": f"River number {number}",
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "temperature": 0.7 if number % 2 else 0,
        "min_p": 0.05,
        "seed": number,
        "stream": True,
    }
    text = ""
    with server.client() as client, client.stream("POST", "/v1/completions", json=body, timeout=180) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return text, event["error"]["code"]
                text += event["choices"][0]["text"]
    return text, None


def _streams(server: ServerProcess) -> list[tuple[str, str | None]]:
    with ThreadPoolExecutor(NUM_STREAMS) as threads:
        return list(threads.map(lambda number: _stream(server, number), range(NUM_STREAMS)))


def test_each_fault_costs_what_it_must(server: ServerProcess, tmp_path: Path) -> None:
    whole = [text for text, _ in _streams(server)]
    with ServerProcess(tmp_path / "log", "--dtype", "float32", *FAST_START, faults=FAULTS) as faulty:
        faulty.wait_ready()
        answers = _streams(faulty)
        log = faulty.log
        print(log)  # noqa: T201 - shown by pytest if the test fails
        for fault in FAULTS.split(","):
            point, action, _ = fault.split(":")
            assert log.count(f"injected fault: {point} {action.partition('=')[0]}") >= 1, fault
        ended = [number for number, (_, error) in enumerate(answers) if error is not None]
        assert [answers[number][1] for number in ended] == ["generation_failed"] * 2, "one for nan, one for request"
        for number, (text, error) in enumerate(answers):
            assert text == (whole[number] if error is None else whole[number][: len(text)]), number
        assert faulty.metric("headrace_corrupted_requests_total") == 1
        assert faulty.metric("headrace_step_memory_shortages_total") == 1
        assert faulty.metric("headrace_engine_restarts_total") == 0
        assert faulty.metric("headrace_request_success_total", finished_reason="error") == 2
        assert faulty.metric("headrace_request_success_total", finished_reason="length") == NUM_STREAMS - 2
        assert faulty.metric("headrace_num_requests_running") == 0
        assert faulty.metric("headrace_kv_cache_blocks", state="used") == 0
