"""The counters of a real server equal the sums over its clients' answers, and it logs each request."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.helpers.answered_tokens import answered_tokens
from tests.helpers.deadline import wait_until
from tests.helpers.server_process import ServerProcess

USER = [{"role": "user", "content": "Name a river."}]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": USER, "max_tokens": 12}),
    ("/v1/chat/completions", {"messages": USER, "max_tokens": 12, "n": 3, **STREAM}),
    ("/v1/completions", {"prompt": ["One day", "Once upon"], "n": 2, "max_tokens": 9, "stop": ","}),
    ("/v1/messages", {"messages": USER, "max_tokens": 12, "stream": True}),
    ("/v1/responses", {"input": "Name a river.", "max_output_tokens": 16}),
    ("/api/chat", {"model": "demo", "messages": USER, "options": {"num_predict": 8}}),
)
TOTALS = ("prompt_tokens_total", "generation_tokens_total", "request_generation_tokens_sum")


def test_counters_equal_the_sums_over_the_answers(server: ServerProcess) -> None:
    before = {name: server.metric(f"headrace_{name}") for name in TOTALS}
    ended = server.metric("headrace_request_success_total")
    with server.client() as client, ThreadPoolExecutor(len(REQUESTS)) as pool:
        answers = list(pool.map(lambda request: client.post(request[0], json=request[1]), REQUESTS * 2))
        assert client.post("/v1/completions", json={"prompt": "x", "n": 0}).status_code == 400
    tokens = [answered_tokens(answer) for answer in answers]
    all_ended = ended + 2 * (1 + 3 + 4 + 1 + 1 + 1)
    wait_until(lambda: server.metric("headrace_request_success_total") >= all_ended, "all are counted")
    wait_until(lambda: server.metric("headrace_num_requests_running") == 0, "nothing runs")
    since = {name: server.metric(f"headrace_{name}") - value for name, value in before.items()}
    assert since == {
        "prompt_tokens_total": sum(each.prompt for each in tokens),
        "generation_tokens_total": sum(each.output for each in tokens),
        "request_generation_tokens_sum": sum(each.output for each in tokens),
    }
    assert server.metric("headrace_request_success_total") == all_ended
    steps = server.metric("headrace_step_duration_seconds_sum")
    phases = sum(
        server.metric("headrace_step_phase_seconds_total", phase=phase)
        for phase in ("draft", "schedule", "forward", "sample", "update")
    )
    assert abs(phases - steps) < 1e-3 * steps
    assert server.metric("headrace_step_phase_seconds_total", phase="sample") > 0


def test_each_request_has_its_line_with_its_id(server: ServerProcess) -> None:
    with server.client() as client:
        answer = client.post("/v1/completions", json={"prompt": "A quiet word", "max_tokens": 5, "ignore_eos": True})
    request_id = answer.headers["x-request-id"]
    wait_until(lambda: request_id in server.log, "it is logged")
    lines = [line for line in server.log.splitlines() if request_id in line]
    assert len(lines) == 1
    expected = (
        r"POST /v1/completions 200 outcome=completed .* output_tokens=5 ttft_s=[\d.]+ duration_s=[\d.]+ finish=length$"
    )
    assert re.search(expected, lines[0]), lines[0]
    assert "A quiet word" not in server.log


def test_both_processes_tell_their_memory(server: ServerProcess) -> None:
    for name in ("process", "headrace_engine_process"):
        assert server.metric(f"{name}_resident_memory_bytes") > 10 * 2**20
        assert server.metric(f"{name}_open_fds") > 3
        assert server.metric(f"{name}_cpu_seconds_total") > 0
    assert server.metric("headrace_engine_ready") == 1
    assert server.metric("headrace_cache_config_info", block_size="16") == 1
