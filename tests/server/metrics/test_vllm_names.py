"""--metrics-alias vllm: what vLLM's own dashboards, and routers and autoscalers made for vLLM, ask for is there."""

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from engine.config import EngineConfig
from engine.protocol import StepStats
from server.app import create_app
from server.config.server import ServerConfig
from server.metrics.values import Metrics
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, says

pytestmark = pytest.mark.fast

# Samples that the queries of vLLM's Grafana dashboards name (examples/observability), with the labels that they match
# or group by. Left out are features that this server lacks: multimodal and external caches, KV transfer. The metric of
# adapters is there where they are: see tests/server/routes/test_adapters.py.
_MODEL = frozenset({"model_name", "engine"})
_HISTOGRAMS = (
    "vllm:e2e_request_latency_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:iteration_tokens_total",
    "vllm:kv_block_idle_before_evict_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:request_generation_tokens",
    "vllm:request_inference_time_seconds",
    "vllm:request_max_num_generation_tokens",
    "vllm:request_params_max_tokens",
    "vllm:request_params_n",
    "vllm:request_prefill_kv_computed_tokens",
    "vllm:request_prefill_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_queue_time_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:time_to_first_token_seconds",
)
QUERIED: tuple[tuple[str, frozenset[str]], ...] = (
    ("vllm:num_requests_running", _MODEL),
    ("vllm:num_requests_waiting", _MODEL),
    ("vllm:num_requests_waiting_by_reason", _MODEL | {"reason"}),
    ("vllm:kv_cache_usage_perc", _MODEL),
    ("vllm:num_preemptions_total", _MODEL),
    ("vllm:prompt_tokens_total", _MODEL),
    ("vllm:prompt_tokens_cached_total", _MODEL),
    ("vllm:prompt_tokens_by_source_total", _MODEL | {"source"}),
    ("vllm:generation_tokens_total", _MODEL),
    ("vllm:prefix_cache_queries_total", _MODEL),
    ("vllm:prefix_cache_hits_total", _MODEL),
    ("vllm:request_success_total", _MODEL | {"finished_reason"}),
    ("vllm:estimated_flops_per_gpu_total", _MODEL),
    ("vllm:estimated_read_bytes_per_gpu_total", _MODEL),
    ("vllm:estimated_write_bytes_per_gpu_total", _MODEL),
    ("vllm:spec_decode_num_drafts_total", _MODEL),
    ("vllm:spec_decode_num_draft_tokens_total", _MODEL),
    ("vllm:spec_decode_num_accepted_tokens_total", _MODEL),
    ("vllm:spec_decode_num_accepted_tokens_per_pos_total", _MODEL | {"position"}),
    ("vllm:engine_sleep_state", _MODEL | {"sleep_state"}),
    ("vllm:cache_config_info", _MODEL | {"block_size", "num_gpu_blocks"}),
    ("http_requests_total", frozenset({"handler", "method", "status"})),
    ("http_request_duration_seconds_sum", frozenset({"handler", "method"})),
    ("http_request_duration_seconds_count", frozenset({"handler", "method"})),
    ("http_request_duration_highr_seconds_bucket", frozenset({"le"})),
    ("http_request_size_bytes_sum", frozenset({"handler"})),
    ("http_response_size_bytes_count", frozenset({"handler"})),
    ("vllm:gpu_cache_usage_perc", _MODEL),  # this and the next ones by vLLM's earlier versions
    ("vllm:gpu_prefix_cache_queries_total", _MODEL),
    ("vllm:gpu_prefix_cache_hits_total", _MODEL),
    ("vllm:time_per_output_token_seconds_bucket", _MODEL | {"le"}),
    *((name + "_bucket", _MODEL | {"le"}) for name in _HISTOGRAMS),
    *((name + suffix, _MODEL) for name in _HISTOGRAMS for suffix in ("_sum", "_count")),
)


def _app() -> tuple[FastAPI, Metrics]:
    metrics = Metrics(MODEL, has_vllm_names=True)
    config = ServerConfig(served_model_name=(MODEL,))
    app = create_app(FakeClient(says("four")), config, EngineConfig(model=MODEL), metrics)
    return app, metrics


async def _samples(app: FastAPI) -> list[Sample]:
    async with http(app) as api:
        text = (await api.get("/metrics")).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


async def _used() -> list[Sample]:
    """All samples after a step with drafts and one request of each outcome."""
    app, metrics = _app()
    metrics.on_ready(engine_info(), has_prefix_cache=True)
    metrics.on_step(StepStats(running=1, num_drafts=1, draft_tokens=2, accepted_tokens=1, accepted_by_position=[1]))
    async with http(app) as api:
        await api.post("/v1/completions", json={"prompt": "hello", "n": 2})
        await api.post("/v1/completions", json={"prompt": "hello", "n": 0})
    return await _samples(app)


async def test_every_metric_that_vllm_s_dashboards_query_is_there_with_its_labels() -> None:
    exported = {(sample.name, frozenset(sample.labels)) for sample in await _used()}
    missing = [
        (name, sorted(labels))
        for name, labels in QUERIED
        if not any(name == other and labels <= others for other, others in exported)
    ]
    assert missing == []


async def test_thresholds_that_the_dashboards_offer_are_bounds_of_buckets() -> None:
    samples = await _used()
    for name, bounds in (
        ("vllm:time_to_first_token_seconds", ("0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "10.0")),
        ("vllm:request_time_per_output_token_seconds", ("0.025", "0.05", "0.075", "0.1", "0.15", "0.2", "0.3", "0.5")),
    ):
        exported = {sample.labels["le"] for sample in samples if sample.name == name + "_bucket"}
        assert exported.issuperset(bounds)


async def test_values_are_those_of_our_names() -> None:
    samples = await _used()
    ours = {sample.name: sample.value for sample in samples if sample.labels == {"model_name": MODEL}}
    theirs = {sample.name: sample.value for sample in samples if sample.labels == {"model_name": MODEL, "engine": "0"}}
    renamed = {name: value for name, value in theirs.items() if name.replace("vllm:", "headrace_") in ours}
    assert len(renamed) > 40
    assert {name: ours[name.replace("vllm:", "headrace_")] for name in renamed} == renamed
    assert theirs["vllm:generation_tokens_total"] == 8


async def test_http_statuses_are_classes_and_probes_are_left_out() -> None:
    app, _ = _app()
    async with http(app) as api:
        for path in ("/v1/models", "/v1/models/a", "/v1/models/b", "/live"):
            await api.get(path)
    found = {
        (sample.labels["handler"], sample.labels["status"]): sample.value
        for sample in await _samples(app)
        if sample.name == "http_requests_total"
    }
    assert found == {("/v1/models", "2xx"): 1, ("/v1/models/{name:path}", "4xx"): 2}


async def test_sizes_are_summaries_by_handler() -> None:
    samples = {
        (sample.name, sample.labels["handler"]): sample.value
        for sample in await _used()
        if sample.name.startswith(("http_request_size_bytes", "http_response_size_bytes"))
    }
    assert {name for name, _ in samples} == {
        f"http_{what}_size_bytes_{part}" for what in ("request", "response") for part in ("sum", "count")
    }
    assert samples["http_request_size_bytes_count", "/v1/completions"] == 2
    assert samples["http_request_size_bytes_sum", "/v1/completions"] > 40


async def test_an_engine_that_is_not_ready_is_not_awake() -> None:
    app, metrics = _app()
    assert any(sample.name == "vllm:engine_sleep_state" for sample in await _samples(app))
    metrics.set("engine_ready", 0)
    assert b"engine_sleep_state" not in metrics.scrape("")[0]


def test_without_the_option_there_are_our_names_only() -> None:
    assert b"vllm:" not in Metrics(MODEL).scrape("")[0]
