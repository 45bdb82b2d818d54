"""Both text formats are valid, have the same samples, and one of them exemplars."""

import pytest
from fastapi import FastAPI
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from engine.config import EngineConfig
from engine.protocol import AuditVerdict, StepStats
from server.app import create_app
from server.config.server import ServerConfig
from server.metrics.spec import PREFIX, MetricType
from server.metrics.table import METRICS
from server.metrics.values import Metrics
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, says

pytestmark = pytest.mark.fast

# As Prometheus asks.
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


async def _used() -> tuple[FastAPI, Metrics]:
    """A server with vLLM's names of which every metric has a sample."""
    metrics = Metrics(MODEL, has_vllm_names=True)
    config = ServerConfig(served_model_name=(MODEL,))
    app = create_app(FakeClient(says("four")), config, EngineConfig(model=MODEL), metrics)
    metrics.on_ready(engine_info(), has_prefix_cache=True)
    metrics.on_startup_phase("load weights", 1.5)
    metrics.on_step(
        StepStats(
            running=1,
            blocks_total=4,
            prefill_tokens=3,
            step_s=0.1,
            accepted_by_position=[1],
            audit=AuditVerdict.EQUAL,
            evicted_blocks=[(2.0, 1)],
            expert_rows=[1],
            grammar_compile_s={"compiled": [0.1]},
        )
    )
    async with http(app) as api:
        await api.post("/v1/completions", json={"prompt": "hello", "n": 2})
        await api.post("/v1/completions", json={"prompt": "hello", "n": 0})
    return app, metrics


def _samples(families: list[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples of both formats, without those of the process, which change meanwhile."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not family.name.startswith(("process_", "python_gc_")) and "/metrics" not in sample.labels.values()
    }


async def test_openmetrics_is_valid_and_has_the_same_samples() -> None:
    app, _ = await _used()
    async with http(app) as api:
        text = await api.get("/metrics")
        openmetrics = await api.get("/metrics", headers={"accept": OPENMETRICS})
    assert text.headers["content-type"].startswith("text/plain; version=")
    assert openmetrics.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert openmetrics.text.endswith("\n# EOF\n")
    assert openmetrics.text.count("# EOF") == 1
    families = list(parse_openmetrics(openmetrics.text))  # raises for what the standard forbids
    assert _samples(families) == _samples(list(parse_text(text.text)))
    units = {family.name: family.unit for family in families if family.unit}
    assert units["headrace_time_to_first_token_seconds"] == "seconds"
    assert units["headrace_step_phase_seconds"] == "seconds"
    assert units["headrace_http_request_size_bytes"] == "bytes"
    counters = {spec.exported for spec in METRICS if spec.type is MetricType.COUNTER}
    assert all(name.endswith("_total") for name in counters)
    exported = {family.name for family in families if family.name.startswith(PREFIX)}
    assert {spec.exported.removesuffix("_total") for spec in METRICS if spec.type is MetricType.COUNTER} <= exported


async def test_histograms_have_the_traces_that_were_seen_as_exemplars() -> None:
    app, metrics = await _used()
    metrics.observe("time_to_first_token_seconds", 0.03, trace_id=TRACE_ID)
    async with http(app) as api:
        text = (await api.get("/metrics")).text
        openmetrics = (await api.get("/metrics", headers={"accept": OPENMETRICS})).text
    assert TRACE_ID not in text  # where there is no place for it
    found = {
        sample.name: (sample.labels["le"], sample.exemplar.labels, sample.exemplar.value)
        for family in parse_openmetrics(openmetrics)
        for sample in family.samples
        if sample.exemplar is not None
    }
    seen = ("0.04", {"trace_id": TRACE_ID}, 0.03)
    assert found == {f"{prefix}time_to_first_token_seconds_bucket": seen for prefix in ("headrace_", "vllm:")}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        ("text/plain, Application/OpenMetrics-Text; version=nonsense;;=", "application/openmetrics-text"),
        (",,;=q=;application/openmetrics", "text/plain"),
    ],
)
async def test_no_header_is_a_fault(accept: str, kind: str) -> None:
    app, _ = await _used()
    async with http(app) as api:
        answer = await api.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind + ";")
