"""The trace of a request at the collector: one span per phase, and nothing that a client wrote."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics.parser import text_string_to_metric_families

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra 'otel' is not installed")

from engine.client.interface import RestartReason
from engine.protocol import EngineRequest, FinishReason, RequestOutput
from server.tracing.start import start_tracing
from server.tracing.tracing import Tracing
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, Script, Step, http, make_app, says
from tests.helpers.otlp_receiver import OtlpReceiver, ReceivedSpan

pytestmark = pytest.mark.fast

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "sesame"}]}
SERVER, INTERNAL = 2, 1  # of OTLP's span kinds
ERROR = 2  # of its status codes
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_NAME", "RESOURCE_ATTRIBUTES", "TRACES_SAMPLER", "TRACES_SAMPLER_ARG", "SDK_DISABLED"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


class Traced:
    """An application with tracing, whose spans have all arrived after `close`."""

    def __init__(self, receiver: OtlpReceiver, script: Script) -> None:
        self.client = FakeClient(script)
        self.app: FastAPI = make_app(self.client)
        self._receiver = receiver
        context = self.app.state.context
        tracing = start_tracing(receiver.url, context.metrics.count_spans)
        assert isinstance(tracing, Tracing)
        self.tracing = context.tracing = tracing

    async def post(self, path: str, body: dict[str, Any], **headers: str) -> Any:
        async with http(self.app) as api:
            return await api.post(path, json=body, headers=headers)

    def close(self) -> dict[str, list[ReceivedSpan]]:
        """The received spans by name."""
        self.tracing.close(5.0)
        return {span.name: self._receiver.named(span.name) for span in self._receiver.spans}


def timed(request: EngineRequest) -> list[Step]:
    """Outputs of a request that was preempted twice, with phases of ten seconds each."""
    now_s = request.arrival_s
    outputs = [
        RequestOutput(id=request.id, new_ids=[72], queue_s=10.0, first_token_s=now_s + 20.0),
        RequestOutput(id=request.id, new_ids=[73], preempted_s=[now_s + 22.0, now_s + 24.0]),
        RequestOutput(id=request.id, new_ids=[74], ended_s=now_s + 30.0, finish_reason=FinishReason.LENGTH),
    ]
    return [msgspec.structs.replace(output, num_cached_tokens=2) for output in outputs]


def _seconds(span: ReceivedSpan, since: ReceivedSpan) -> tuple[float, float]:
    """When the span began and ended, from another's beginning."""
    return round((span.began_ns - since.began_ns) / 1e9, 3), round((span.ended_ns - since.began_ns) / 1e9, 3)


async def test_a_request_is_a_span_with_one_for_each_stretch_below(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, timed)
    began_ns = time.time_ns()
    answer = await traced.post("/v1/chat/completions", {**CHAT, "temperature": 0.5, "max_tokens": 3, "seed": 7})
    spans = traced.close()
    assert sorted(spans) == ["POST /v1/chat/completions", "decode", "prefill", "prepare", "queue"]
    (server,) = spans["POST /v1/chat/completions"]
    children = [spans[name][0] for name in ("prepare", "queue", "prefill", "decode")]
    assert len(receiver.spans) == 5
    assert {span.trace_id for span in receiver.spans} == {server.trace_id}
    assert [span.parent_id for span in children] == [server.span_id] * 4
    assert (server.parent_id, server.kind, {span.kind for span in children}) == ("", SERVER, {INTERNAL})
    assert abs(server.began_ns - began_ns) < 5e9
    # The engine's times, and no gap from the arrival to the end.
    prepare, queue, prefill, decode = (_seconds(span, server) for span in children)
    assert prepare[0] == 0
    assert (queue[0], queue[1]) == (prepare[1], 10.0)
    assert (prefill, decode) == ((10.0, 20.0), (20.0, 30.0))
    preemptions = [(at_ns - server.began_ns) / 1e9 for name, at_ns, _ in server.events if name == "preemption"]
    assert preemptions == pytest.approx([22.0, 24.0], abs=1e-3)
    assert [name for name, *_ in server.events if name != "preemption"] == ["first_token"]
    ids, _, flags = answer.headers["traceresponse"].rpartition("-")
    assert (ids, int(flags, 16) & 1) == (f"00-{server.trace_id}-{server.span_id}", 1)
    assert receiver.paths == ["/v1/traces"]


async def test_the_attributes_follow_the_conventions(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, timed)
    body = {**CHAT, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_tokens": 3, "seed": 7, "stream": True}
    answer = await traced.post("/v1/chat/completions", body, **{"x-request-id": "abc-1"})
    (server,) = traced.close()["POST /v1/chat/completions"]
    attributes = dict(server.attributes)
    latencies = {name: attributes.pop(name) for name in list(attributes) if name.startswith("gen_ai.latency.")}
    assert attributes.pop("gen_ai.response.id") in answer.text
    assert attributes.pop("http.request.body.size") > 50
    assert attributes.pop("http.response.body.size") == len(answer.content)
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "headrace.request.id": "abc-1",
        "headrace.outcome": "completed",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "headrace",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 5,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 25,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.response.finish_reasons": ["length"],
    }
    assert latencies.pop("gen_ai.latency.e2e") > 0
    assert latencies.pop("gen_ai.latency.time_to_first_token") >= 0
    assert {name: round(value, 3) for name, value in latencies.items()} == {
        "gen_ai.latency.time_in_queue": 10.0,
        "gen_ai.latency.time_in_model_prefill": 10.0,
        "gen_ai.latency.time_in_model_decode": 10.0,
        "gen_ai.latency.time_in_model_inference": 20.0,
    }
    assert server.resource["service.name"] == "headrace"
    assert server.resource["service.version"]


async def test_nothing_that_a_client_wrote_is_sent(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, says("treasure"))
    async with http(traced.app, authorization="Bearer sesame", **{"user-agent": "sesame"}) as api:
        await api.post("/v1/chat/completions", json={**CHAT, "user": "sesame", "stop": ["sesame"]})
        await api.post("/v1/chat/completions", json={**CHAT, "model": "sesame"})
        await api.post("/v1/completions", json={"prompt": "sesame", "sesame": 1, "temperature": "sesame"})
        await api.get("/sesame?sesame=sesame")
        await api.get("/v1/models/sesame")
    traced.close()
    sent = b"".join(receiver.bodies)
    assert len(receiver.spans) >= 5 + 4
    assert b"sesame" not in sent
    assert b"treasure" not in sent


@pytest.mark.parametrize("is_sampled", [True, False])
async def test_a_caller_s_trace_goes_on_if_it_is_sampled(receiver: OtlpReceiver, is_sampled: bool) -> None:
    traced = Traced(receiver, says("hi"))
    flags = "01" if is_sampled else "00"
    answer = await traced.post(
        "/v1/chat/completions",
        CHAT,
        traceparent=f"00-{TRACE_ID}-{PARENT_ID}-{flags}",
        tracestate="vendor=value,other=1",
    )
    spans = traced.close()
    version, trace_id, span_id, flags_back = answer.headers["traceresponse"].split("-")
    assert (version, trace_id, flags_back) == ("00", TRACE_ID, flags)
    if not is_sampled:
        assert spans == {}
        return
    (server,) = spans["POST /v1/chat/completions"]
    assert (server.trace_id, server.parent_id, server.span_id) == (TRACE_ID, PARENT_ID, span_id)
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}
    assert server.trace_state == "vendor=value,other=1"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"traceparent", b"00-" + TRACE_ID.encode() + b"-" + PARENT_ID.encode() + b"-01")] * 2,
        [(b"traceparent", b"00-" + b"0" * 32 + b"-" + PARENT_ID.encode() + b"-01")],
        [(b"traceparent", b"sesame\xff"), (b"tracestate", b"sesame" * 1000)],
        [(b"traceparent", b"x" * 10_000)],
        [(b"tracestate", b"sesame=1")],
    ],
)
async def test_wrong_headers_begin_a_trace_of_its_own(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture, headers: list[tuple[bytes, bytes]]
) -> None:
    caplog.set_level(logging.WARNING)
    traced = Traced(receiver, says("hi"))
    headers = [(b"host", b"server"), (b"content-type", b"application/json"), *headers]
    async with RawRequest(traced.app, "/v1/chat/completions", CHAT, headers=headers) as request:
        await request.ended()
    (server,) = traced.close()["POST /v1/chat/completions"]
    assert (server.parent_id, request.status) == ("", 200)
    assert server.trace_id != TRACE_ID
    assert caplog.records == []  # a client could fill the log


@pytest.mark.parametrize(("sampler", "argument", "num_traces"), [("always_off", "", 0), ("traceidratio", "0.5", 20)])
async def test_opentelemetry_s_variables_say_what_is_sampled(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, num_traces: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "poems")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    traced = Traced(receiver, says("hi"))
    for number in range(40):
        await traced.post("/v1/chat/completions", CHAT, traceparent=f"00-{number % 2:016x}{1 << 63:016x}-{1:016x}-01")
    for number in range(num_traces):  # by the trace's id: the lower half of it, below a half of what it can be
        await traced.post("/v1/chat/completions", CHAT, traceparent=f"00-{number:016x}{1:016x}-{1:016x}-00")
    spans = traced.close().get("POST /v1/chat/completions", [])
    assert len(spans) == num_traces
    assert all(span.resource["service.name"] == "poems" for span in spans)
    assert all(span.resource["deployment.environment.name"] == "test" for span in spans)


async def test_each_choice_has_its_stretches_up_to_eight(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, timed)
    await traced.post("/v1/completions", {"prompt": ["a", "b"], "n": 5})
    spans = traced.close()
    for name in ("queue", "prefill", "decode"):
        assert [span.attributes for span in spans[name]] == [{"headrace.choice": number} for number in range(8)]
    (server,) = spans["POST /v1/completions"]
    assert server.attributes["gen_ai.operation.name"] == "text_completion"
    assert server.attributes["gen_ai.request.choice.count"] == 10
    assert server.attributes["gen_ai.response.finish_reasons"] == ["length"] * 10


async def test_a_request_that_was_refused_has_no_stretches(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, says("hi"))
    await traced.post("/v1/chat/completions", {**CHAT, "n": 0})
    await traced.post("/nothing", {})
    traced.client.capacity = 0
    await traced.post("/v1/chat/completions", CHAT)
    spans = traced.close()
    assert sorted(spans) == ["POST", "POST /v1/chat/completions"]
    errors = [span.attributes["error.type"] for span in (*spans["POST /v1/chat/completions"], *spans["POST"])]
    assert errors == ["invalid_request_error", "rate_limit_exceeded", "not_found"]
    assert {span.status for span in receiver.spans} == {0}  # a client's fault is none of the server's


async def test_a_failure_is_an_error_and_a_client_that_leaves_is_not(receiver: OtlpReceiver) -> None:
    def script(request: EngineRequest) -> list[Step]:
        if request.sampling.seed == 1:
            return [
                RequestOutput(id=request.id, new_ids=[72], queue_s=0.1),
                RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error="not finite"),
            ]
        return [RequestOutput(id=request.id, new_ids=[72], queue_s=0.1), None]

    traced = Traced(receiver, script)
    await traced.post("/v1/chat/completions", {**CHAT, "seed": 1, "stream": True})
    async with RawRequest(traced.app, "/v1/chat/completions", {**CHAT, "stream": True}) as request:
        await request.until(lambda: b"content" in request.body)
        request.disconnect()
        await request.ended()
    spans = traced.close()
    failed, left = spans["POST /v1/chat/completions"]
    assert (failed.status, failed.attributes["error.type"]) == (ERROR, "generation_failed")
    assert (failed.attributes["headrace.outcome"], left.attributes["headrace.outcome"]) == ("failed", "aborted")
    assert (left.status, left.attributes["gen_ai.response.finish_reasons"]) == (0, ["abort"])
    assert len(spans["decode"]) == 2


async def test_a_restart_of_the_engine_is_told_to_the_requests_that_it_befell(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, timed)
    traced.tracing.note_restart(RestartReason.CRASH)
    stream = RawRequest(traced.app, "/v1/chat/completions", {**CHAT, "stream": True})
    stream.pause()
    async with stream:
        await stream.until(lambda: stream.is_paused)
        traced.tracing.note_restart(RestartReason.HANG)
        stream.resume()
        await stream.ended()
    (server,) = traced.close()["POST /v1/chat/completions"]
    restarts = [attributes for name, _, attributes in server.events if name == "engine_restart"]
    assert restarts == [{"headrace.reason": "hang"}]


async def test_probes_and_metrics_have_no_trace(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, says("hi"))
    async with http(traced.app) as api:
        for path in ("/live", "/ready", "/health", "/metrics"):
            assert "traceresponse" not in (await api.get(path)).headers
        assert "traceresponse" in (await api.get("/v1/models")).headers
    assert list(traced.close()) == ["GET /v1/models"]


async def test_a_background_response_is_one_trace_to_its_end(receiver: OtlpReceiver) -> None:
    traced = Traced(receiver, timed)
    await traced.post("/v1/responses", {"input": "sesame", "background": True})
    await traced.app.state.context.runs.finish(5.0)
    spans = traced.close()
    (server,) = spans["POST /v1/responses"]
    assert server.attributes["gen_ai.usage.output_tokens"] == 3
    assert _seconds(spans["decode"][0], server) == (20.0, 30.0)


async def test_the_log_and_the_histograms_name_the_trace(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    traced = Traced(receiver, says("hi"))
    await traced.post("/v1/chat/completions", CHAT, traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01")
    await traced.post("/v1/chat/completions", CHAT, traceparent=f"00-{TRACE_ID[::-1]}-{PARENT_ID}-00")
    traced.close()
    told = [vars(record)["fields"].get("trace_id") for record in caplog.records if "fields" in vars(record)]
    assert told == [TRACE_ID, None]
    async with http(traced.app) as api:
        text = (await api.get("/metrics", headers={"accept": "application/openmetrics-text"})).text
    exemplars = {
        (family.name, sample.exemplar.labels["trace_id"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert exemplars == {
        (f"headrace_{name}_seconds", TRACE_ID)
        for name in (
            "time_to_first_token",
            "request_time_per_output_token",
            "e2e_request_latency",
            "request_queue_time",
            "queue_time",
            "request_prefill_time",
            "request_decode_time",
            "request_inference_time",
            "http_request_duration",
        )
    }
    assert 'headrace_trace_spans_total{outcome="exported"} 5.0' in text
