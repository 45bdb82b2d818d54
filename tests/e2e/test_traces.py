"""Traces of a real server: both processes' times, an engine that ends on the way, and what waits at the end."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra 'otel' is not installed")

from tests.e2e.conftest import FAST_START
from tests.helpers.deadline import DEADLINE_S, wait_until
from tests.helpers.otlp_receiver import OtlpReceiver
from tests.helpers.server_process import ServerProcess

PATH = "/v1/completions"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def _body(prompt: str, num_tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": num_tokens, "ignore_eos": True}


def test_traces_outlive_the_engine_and_are_sent_before_the_end(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        options = ("--otlp-traces-endpoint", receiver.url, "--max-num-seqs", "1", *FAST_START)
        with ServerProcess(tmp_path / "log", *options) as server, ThreadPoolExecutor(2) as pool:
            server.wait_ready()
            with server.client() as client:
                assert client.put("/log-level", json={"level": "debug"}).json() == {"level": "debug"}
                headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
                plain = client.post(PATH, json=_body("A quiet word", 4), headers=headers)

                def send(body: dict[str, Any]) -> httpx.Response:
                    return client.post(PATH, json=body)

                first = pool.submit(send, _body("A long story", 300))
                wait_until(lambda: server.metric("headrace_num_requests_running") == 1, "the first one runs")
                second = pool.submit(send, _body("A short one", 3))
                wait_until(lambda: server.metric("headrace_num_requests_waiting") == 1, "the second one waits")
                wait_until(lambda: server.metric("headrace_iteration_decode_tokens_sum") > 10, "there are tokens")
                os.kill(server.engine_pid(), signal.SIGKILL)  # as the system does for want of memory
                assert first.result().json()["usage"]["completion_tokens"] == 300
                assert second.result().json()["usage"]["completion_tokens"] == 3
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(DEADLINE_S) == 0
        log = server.log
    spans = receiver.named(f"POST {PATH}")
    of_plain, of_first, of_second = sorted(spans, key=lambda span: span.began_ns)
    assert plain.headers["traceresponse"].split("-")[1] == of_plain.trace_id == TRACE_ID
    assert f"trace_id={TRACE_ID}" in log
    assert [name for name, *_ in of_first.events] == ["first_token", "engine_restart"]
    assert [name for name, *_ in of_second.events] == ["engine_restart", "first_token"]
    assert {span.attributes["headrace.outcome"] for span in spans} == {"completed"}
    below = [span for span in receiver.spans if span.trace_id == TRACE_ID and span is not of_plain]
    below.sort(key=lambda span: span.began_ns)
    assert [span.name for span in below] == ["prepare", "queue", "prefill", "decode"]
    times = [time_ns for span in below for time_ns in (span.began_ns, span.ended_ns)]
    assert times == sorted(times)  # of two processes, and yet in order
    assert of_plain.began_ns == times[0]
    assert times[-1] <= of_plain.ended_ns
    assert b"quiet word" not in b"".join(receiver.bodies)
    assert "quiet word" not in log
