"""A real Prometheus over a mixed load on a real server: counts, rules, alerts, and every query of the dashboard."""

import json
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import require_tool
from tests.helpers.answered_tokens import answered_tokens
from tests.helpers.dashboard import DASHBOARD, panels_of
from tests.helpers.deadline import wait_until
from tests.helpers.demo_adapters import save_demo_adapter
from tests.helpers.prometheus_process import PrometheusProcess
from tests.helpers.server_process import ServerProcess

pytestmark = pytest.mark.integrations

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "Name a river and say where it flows."}]
LONG = "Once upon a time there was a river that " * 20
SCHEMA = {"type": "object", "required": ["name"], "properties": {"name": {"enum": ["Rhine", "Nile"]}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "river", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": SCHEMA | {"additionalProperties": False}}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
# A pool of 96 blocks, of which the long prompts need more, and a queue that is soon full.
SERVER = (
    *("--kv-cache-memory-bytes", "34MiB", "--max-num-batched-tokens", "256", "--max-num-seqs", "4"),
    *("--max-num-waiting", "8", "--max-model-len", "1024", "--served-model-name", "demo"),
    *("--speculative-method", "ngram", "--spec-audit-rate", "1", "--log-format", "json"),
    *("--enable-lora", "--max-lora-rank", "8", "--max-loras", "1", "--finetune-yield", "never"),
)
WHOLE: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"messages": USER, "max_tokens": 12}),
    (CHAT, {"messages": USER, "max_tokens": 12, "n": 2, **USAGE}),
    (COMPLETION, {"prompt": ["One day", "Once upon"], "max_tokens": 9}),
    (COMPLETION, {"prompt": LONG, "max_tokens": 40, "temperature": 0}),
    *((COMPLETION, {"prompt": f"{n}: {LONG}", "max_tokens": 200, "ignore_eos": True}) for n in range(5)),
    ("/v1/messages", {"model": "demo", "messages": USER, "max_tokens": 12, "stream": True}),
    ("/v1/responses", {"input": "Name a river.", "max_output_tokens": 16}),
    ("/api/chat", {"model": "demo", "messages": USER, "options": {"num_predict": 8}}),
    (CHAT, {"messages": USER, "max_tokens": 40, "response_format": FORMAT}),
    (CHAT, {"messages": USER, "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}),
    (COMPLETION, {"model": "adapted", "prompt": "A river", "max_tokens": 8}),
)
ROUTES = "|".join({path for path, _ in WHOLE})
WRONG = (COMPLETION, {"prompt": "x", "n": 0})

# What a dense model without a fault does not do; each has no series before it first happens.
WITHOUT_DATA = {
    "headrace_expert_rows_total": "the model has no experts",
    "headrace_http_connections_closed_total": "no connection was ended",
    "headrace_trace_spans_total": "nothing is traced",
    **dict.fromkeys(
        (
            *("headrace_pooling_inputs_total", "headrace_pooling_request_inputs", "headrace_pooling_request_tokens"),
            *("headrace_pooling_step_texts", "headrace_pooling_step_tokens"),
        ),
        "the model makes no embeddings",
    ),
}
KEYS: dict[str, dict[str, Any]] = {
    "load": {"requests_per_minute": 1},
    "prometheus": {"metrics": True, "models": []},
}


@dataclass(slots=True)
class Answers:
    """What the clients of the load got, added up."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    aborted: dict[str, int] = field(default_factory=dict)  # the tokens that a client had when it left, by request id


@dataclass(frozen=True, slots=True)
class Watched:
    server: ServerProcess
    prometheus: PrometheusProcess
    answers: Answers
    began_s: float
    told: socket.socket  # where systemd's end would be


def _abort(client: httpx.Client, number: int) -> tuple[str, int]:
    """Leave a stream after its fifth chunk; the request's id, and how many tokens it had by then."""
    body = {"prompt": f"Once there were {number} rivers", "max_tokens": 400, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"continuous_usage_stats": True, "include_usage": True}
    with client.stream("POST", COMPLETION, json=body) as response:
        chunks = (json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line)
        usage = [next(chunks)["usage"] for _ in range(5)][-1]
        return response.headers["x-request-id"], usage["completion_tokens"]


def _put_load_on(server: ServerProcess, answers: Answers) -> None:
    """Four clients at once, of which some leave before their answer's end; all is over when this returns."""
    with server.client() as client, ThreadPoolExecutor(4) as pool:
        whole, aborts = [], []
        for number, (path, body) in enumerate(WHOLE * 2):
            whole.append(pool.submit(client.post, path, json=body))
            if number % 5 == 0:
                aborts.append(pool.submit(_abort, client, number))
        wrong = [pool.submit(client.post, WRONG[0], json=WRONG[1]) for _ in range(3)]
        for response in (each.result() for each in whole):
            _add(answers, response)
        answers.outcomes["refused"] += sum(each.result().status_code == 400 for each in wrong)
        answers.aborted = dict(each.result() for each in aborts)
        answers.outcomes["aborted"] += len(answers.aborted)
        _resume(client, answers)
        _pass_a_limit(client, answers)
        _predict(client, answers)


def _add(answers: Answers, response: httpx.Response) -> None:
    tokens = answered_tokens(response)
    answers.prompt_tokens += tokens.prompt
    answers.output_tokens += tokens.output
    answers.outcomes["completed"] += 1


def _resume(client: httpx.Client, answers: Answers) -> None:
    """A stream that its client reads again from the start."""
    body = {"prompt": "The river", "max_tokens": 8, "resumable": True, **USAGE}
    first = client.post(COMPLETION, json=body)
    _add(answers, first)
    assert client.get(f"/v1/streams/{first.headers['x-stream-id']}").status_code == 200


def _predict(client: httpx.Client, answers: Answers) -> None:
    """An answer whose client knows it beforehand. It is replayed without drafts once nobody waits, as nothing but the
    logits chooses its tokens: not the demo's own penalty either."""
    body = {"messages": USER, "max_tokens": 24, "temperature": 0, "repetition_penalty": 1.0}
    first = client.post(CHAT, json=body)
    _add(answers, first)
    prediction = {"type": "content", "content": first.json()["choices"][0]["message"]["content"]}
    _add(answers, client.post(CHAT, json=body | {"prediction": prediction}))


def _run_a_batch(client: httpx.Client, answers: Answers) -> None:
    body = {"model": "demo", "prompt": "A river", "max_tokens": 4}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": COMPLETION, "body": body})
    file = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", line)}).json()
    made = {"input_file_id": file["id"], "endpoint": COMPLETION, "completion_window": "24h"}
    path = f"/v1/batches/{client.post('/v1/batches', json=made).json()['id']}"
    wait_until(lambda: client.get(path).json()["status"] == "completed", "the batch is completed")
    usage = client.get(path).json()["usage"]
    answers.prompt_tokens += usage["input_tokens"]
    answers.output_tokens += usage["output_tokens"]


def _fail_a_fine_tuning(client: httpx.Client) -> None:
    file = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", "{}")}).json()
    made = client.post("/v1/fine_tuning/jobs", json={"model": "demo", "training_file": file["id"]}).json()
    path = f"/v1/fine_tuning/jobs/{made['id']}"
    wait_until(lambda: client.get(path).json()["status"] == "failed", "the job has failed")


def _pass_a_limit(client: httpx.Client, answers: Answers) -> None:
    """The second request within a minute of a key that has one."""
    headers = {"authorization": f"Bearer {_key('load')}"}
    first, second = (client.post(COMPLETION, json={"prompt": "x", "max_tokens": 2}, headers=headers) for _ in range(2))
    _add(answers, first)
    assert second.status_code == 429
    answers.outcomes["refused"] += 1


def _key(name: str) -> str:
    return f"key-of-{name}"


def _write_keys(path: Path) -> None:
    entries = [
        {"name": name, "hash": f"sha256:{sha256(_key(name).encode()).hexdigest()}", **rights}
        for name, rights in KEYS.items()
    ]
    path.write_text(json.dumps({"keys": entries}))
    path.chmod(0o600)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    program = require_tool("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    (folder / "prometheus").mkdir()
    began_s = time.time()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, pytest.MonkeyPatch.context() as patch:
        told.bind(str(folder / "notify"))
        told.settimeout(30)
        patch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        _write_keys(folder / "keys.json")
        adapter = save_demo_adapter(folder / "adapter", 0)
        folders = ("--lora-modules", f"adapted={adapter}", "--data-dir", str(folder / "data"))
        with ServerProcess(folder / "log", *SERVER, *folders, "--api-keys-file", str(folder / "keys.json")) as server:
            target = server.url.removeprefix("http://")
            with PrometheusProcess(program, folder / "prometheus", target, _key("prometheus")) as prometheus:
                server.wait_ready()
                server.process.send_signal(signal.SIGHUP)  # reads the keys again
                answers = Answers()
                with server.client() as client:
                    _run_a_batch(client, answers)
                    prometheus.wait_scraped()  # a counter's first value counts only if it is not its first sample
                    _put_load_on(server, answers)
                    _run_a_batch(client, answers)
                    _fail_a_fine_tuning(client)
                replays = "headrace_spec_decode_audits_total"
                wait_until(lambda: prometheus.samples(replays) != [], "an answer with drafts is replayed")
                prometheus.wait_scraped()
                prometheus.wait_scraped()  # a rate needs two samples
                wait_until(lambda: prometheus.value("headrace_num_requests_running") == 0, "nothing runs")
                yield Watched(server, prometheus, answers, began_s, told)


def _record(server: ServerProcess, request_id: str) -> dict[str, Any]:
    """A request's line in the log."""
    (line,) = (line for line in server.log.splitlines() if request_id in line)
    record: dict[str, Any] = json.loads(line)
    return record


def test_systemd_is_told_when_the_model_is_loaded(watched: Watched) -> None:
    assert watched.told.recv(4096).startswith(b"STATUS=Loading")
    assert watched.told.recv(4096).startswith(b"READY=1\nSTATUS=Serving at http://127.0.0.1:")


def test_prometheus_has_no_trouble_with_metrics_and_rules(watched: Watched) -> None:
    assert watched.prometheus.last_error() == ""
    health = watched.prometheus.health()
    assert len(health) > 15
    assert set(health.values()) == {"ok"}


def test_counters_equal_the_sums_over_the_clients_answers(watched: Watched) -> None:
    """Of what a client that left was not told, the log says as much as the counters."""
    answers, prometheus = watched.answers, watched.prometheus
    left = {request_id: _record(watched.server, request_id) for request_id in answers.aborted}
    for request_id, had in answers.aborted.items():
        assert had <= left[request_id]["output_tokens"] < 400
    lost = sum(record["output_tokens"] for record in left.values())
    prompts = answers.prompt_tokens + sum(record["prompt_tokens"] for record in left.values())
    assert prometheus.value("headrace_prompt_tokens_total") == prompts
    assert prometheus.value("headrace_generation_tokens_total") == answers.output_tokens + lost
    assert prometheus.value('headrace_wasted_tokens_total{cause="abort"}') == lost
    assert prometheus.value('headrace_request_success_total{finished_reason="abort"}') == len(left)
    counted = prometheus.samples(f'sum by (outcome) (headrace_requests_total{{route=~"{ROUTES}"}})')
    assert {labels["outcome"]: value for labels, value in counted} == answers.outcomes
    assert prometheus.samples("headrace_key_refusals_total")[0][1] == 1


def test_every_query_of_the_dashboard_has_data(watched: Watched) -> None:
    panels = panels_of(json.loads(DASHBOARD.read_text()))
    variables = {"$instance": ".*", "$model_name": ".*", "$__rate_interval": "20s"}
    empty = []
    for panel in panels:
        for target in panel["targets"]:
            query = re.sub(r"\$\w+", lambda match: variables[match[0]], target["expr"])
            values = watched.prometheus.values_since(query, watched.began_s)
            if not any(value == value for value in values):  # not all are NaN
                empty.append(panel["title"])
                break
    assert set(empty) == set(WITHOUT_DATA)


def test_alerts_fire_when_their_faults_are_made_and_not_before(watched: Watched) -> None:
    """Last, since it takes the server down. Spans and durations of the rules are a thirtieth of what they are."""
    server, prometheus = watched.server, watched.prometheus
    assert prometheus.firing() <= {"HeadracePreempting"}  # which the small pool brings about
    with server.client() as client, ThreadPoolExecutor(24) as pool:
        statuses = _overload(client, pool)
        wait_until(lambda: "HeadraceRefusing" in prometheus.firing(), "the full queue is told")
        statuses.stop = True
    os.kill(server.engine_pid(), signal.SIGKILL)
    wait_until(lambda: "HeadraceEngineRestarted" in prometheus.firing(), "the engine's end is told")
    server.wait_ready()
    server.process.kill()
    wait_until(lambda: "HeadraceDown" in prometheus.firing(), "the server's end is told")


@dataclass(slots=True)
class _Overload:
    stop: bool = False


def _overload(client: httpx.Client, pool: ThreadPoolExecutor) -> _Overload:
    """Requests of 24 clients, of which 12 fit, until told to stop."""
    load = _Overload()

    def ask() -> None:
        while not load.stop:
            client.post(COMPLETION, json={"prompt": "River", "max_tokens": 64, "ignore_eos": True})

    for _ in range(24):
        pool.submit(ask)
    return load
