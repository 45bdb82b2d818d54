"""Counters equal the sums over the responses, and every accepted choice ends exactly once."""

from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from engine.client.interface import RestartReason
from engine.errors import EngineDied, EngineStopped
from engine.protocol import AuditVerdict, EngineRequest, FinishReason, RequestOutput, StepStats
from server.metrics.request_record import RequestRecord
from server.metrics.spec import PREFIX, MetricSpec, MetricType
from server.metrics.table import METRICS
from server.metrics.values import Metrics
from tests.helpers.fake_client import MODEL, FakeClient, Step, http, make_app, says

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
REASONS = ("stop", "length", "abort", "error")


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    if name not in ("headrace_http_requests_total", "headrace_build_info"):
        labels["model_name"] = MODEL
    return _samples(metrics.scrape("")[0].decode())[name, tuple(sorted(labels.items()))]


def _ended(metrics: Metrics) -> list[float]:
    """Ended choices by stop, length, abort and error."""
    return [_value(metrics, "headrace_request_success_total", finished_reason=reason) for reason in REASONS]


def _metrics(app: FastAPI) -> Metrics:
    metrics: Metrics = app.state.context.metrics
    return metrics


async def test_token_counters_equal_the_sums_of_usage() -> None:
    app = make_app(FakeClient(says("one two three", per_step=4)))
    bodies: list[dict[str, Any]] = [{"prompt": "ab"}, {"prompt": ["a", "b"], "n": 2}, {"prompt": "abc", "stop": "two"}]
    prompt_tokens = completion_tokens = 0
    async with http(app) as api:
        for body in bodies:
            usage = (await api.post("/v1/completions", json=body)).json()["usage"]
            prompt_tokens += usage["prompt_tokens"]
            completion_tokens += usage["completion_tokens"]
    metrics = _metrics(app)
    assert _value(metrics, "headrace_prompt_tokens_total") == prompt_tokens == 3 + 4 + 4
    assert _value(metrics, "headrace_generation_tokens_total") == completion_tokens == 13 + 52 + 7
    assert _value(metrics, "headrace_discarded_tokens_total") == 1  # the 8th token of the step in which "two" ended
    assert _ended(metrics) == [1, 5, 0, 0]


def test_what_drafts_brought_is_counted_over_steps() -> None:
    metrics = Metrics(MODEL)
    metrics.on_step(StepStats(num_drafts=2, draft_tokens=9, accepted_tokens=4, accepted_by_position=[2, 1, 1]))
    metrics.on_step(
        StepStats(
            num_drafts=1,
            draft_tokens=3,
            accepted_tokens=1,
            accepted_by_position=[1],
            draft_length=1.5,
            estimated_speedup=1.4,
            realized_speedup=1.3,
        )
    )
    names = ("num_drafts_total", "num_draft_tokens_total", "num_accepted_tokens_total", "draft_length")
    assert [_value(metrics, f"headrace_spec_decode_{name}") for name in names] == [3, 12, 5, 1.5]
    name = "headrace_spec_decode_num_accepted_tokens_per_pos_total"
    assert [_value(metrics, name, position=str(place)) for place in range(3)] == [3, 1, 1]
    metrics.on_step(StepStats())  # nothing decoded: the gauges keep what they said
    assert _value(metrics, "headrace_spec_decode_estimated_speedup") == 1.4
    for name in ("realized", "realised"):  # the former name, for one version
        assert _value(metrics, f"headrace_spec_decode_{name}_speedup") == 1.3


def test_audits_are_counted_by_verdict_and_the_end_of_speculation_is_told() -> None:
    metrics = Metrics(MODEL)
    assert _value(metrics, "headrace_spec_decode_disabled") == 0
    for verdict in (AuditVerdict.EQUAL, AuditVerdict.EQUAL, AuditVerdict.DISAGREEMENT):
        metrics.on_step(StepStats(audit=verdict, is_speculation_off=verdict is AuditVerdict.DISAGREEMENT))
    name = "headrace_spec_decode_audits_total"
    assert [_value(metrics, name, verdict=verdict) for verdict in ("equal", "disagreement")] == [2, 1]
    assert _value(metrics, "headrace_spec_decode_disabled") == 1


async def test_each_choice_is_timed() -> None:
    app = make_app(FakeClient(says("abcd", per_step=2)))
    async with http(app) as api:
        await api.post("/v1/chat/completions", json={**CHAT, "n": 3})
    metrics = _metrics(app)
    counts = {
        "time_to_first_token_seconds": 3,
        "inter_token_latency_seconds": 3 * 3,
        "e2e_request_latency_seconds": 3,
        "request_queue_time_seconds": 3,
    }
    assert {name: _value(metrics, f"headrace_{name}_count") for name in counts} == counts
    assert _value(metrics, "headrace_request_queue_time_seconds_sum") == 0.75


@pytest.mark.parametrize(("error", "ended"), [(EngineDied, [0, 0, 0, 3]), (EngineStopped, [0, 0, 3, 0])])
async def test_the_end_of_the_engine_counts_each_choice_as_an_error_and_a_stop_as_an_abort(
    error: type[EngineDied], ended: list[int]
) -> None:
    def script(request: EngineRequest) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[72]), error("gone")]

    app = make_app(FakeClient(script))
    async with http(app) as api:
        await api.post("/v1/chat/completions", json={**CHAT, "n": 2, "stream": True})
        await api.post("/v1/chat/completions", json=CHAT)
    assert _ended(_metrics(app)) == ended


async def test_a_failed_choice_counts_as_an_error_and_its_siblings_as_aborts() -> None:
    def script(request: EngineRequest) -> list[Step]:
        if request.id.endswith("-0"):
            return [RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error="bad")]
        return [None]

    app = make_app(FakeClient(script))
    async with http(app) as api:
        await api.post("/v1/chat/completions", json={**CHAT, "n": 3})
    assert _ended(_metrics(app)) == [0, 0, 2, 1]


async def test_refused_requests_end_nothing() -> None:
    client = FakeClient(says("x"))
    client.capacity = 0
    app = make_app(client)
    async with http(app) as api:
        await api.post("/v1/chat/completions", json=CHAT)
        await api.post("/v1/chat/completions", json={**CHAT, "n": 0})
    assert _ended(_metrics(app)) == [0, 0, 0, 0]


async def test_http_requests_are_counted_with_bounded_labels() -> None:
    app = make_app(FakeClient(says("x")))
    async with http(app) as api:
        for path in ("/nothing", "/nothing/else", "/v1/models/a", "/v1/models/b/c"):
            await api.request("GET", path)
        await api.request("BREW", "/live")
    metrics = _metrics(app)
    count = "headrace_http_requests_total"
    assert _value(metrics, count, method="GET", route="unmatched", status="404") == 2
    assert _value(metrics, count, method="GET", route="/v1/models/{name:path}", status="404") == 2
    assert _value(metrics, count, method="other", route="/live", status="405") == 1


def test_gauges_are_values_and_counters_increments() -> None:
    metrics = Metrics(MODEL)
    stats = StepStats(
        running=3,
        waiting=2,
        blocks_total=8,
        blocks_used=2,
        blocks_cached=5,
        states_total=10,
        states_used=3,
        states_cached=4,
        prefill_tokens=30,
        decode_tokens=2,
        prefix_queries=40,
        prefix_hits=16,
        prefix_restored=6,
        preemptions=1,
        step_s=0.5,
        predicted_s=0.75,
        measured_s=0.5,
    )
    metrics.on_step(stats)
    metrics.on_step(stats)
    values = {
        "num_requests_running": 3,
        "num_requests_waiting": 2,
        "kv_cache_usage_perc": 0.25,
        "kv_cache_cached_blocks": 5,
        "recurrent_states_usage_perc": 0.3,
        "recurrent_states_cached": 4,
        "num_preemptions_total": 2,
        "prefix_cache_queries_total": 80,
        "prefix_cache_hits_total": 20,
        "iteration_tokens_total_count": 2,
        "iteration_tokens_total_sum": 64,
        "iteration_prefill_tokens_sum": 60,
        "iteration_decode_tokens_sum": 4,
        "predicted_step_seconds_total": 1.5,
        "predicted_step_measured_seconds_total": 1.0,
        "predicted_step_error_seconds_total": 0.5,
        "step_duration_seconds_sum": 1.0,
    }
    assert {name: _value(metrics, f"headrace_{name}") for name in values} == values


def test_what_a_step_knows_by_kind_is_told_by_label() -> None:
    metrics = Metrics(MODEL)
    stats = StepStats(
        waiting=9,
        waiting_tokens=90,
        waiting_cached_tokens=30,
        pending_prompt_tokens=7,
        waiting_urgent=1,
        waiting_background=5,
        waiting_for_grammar=2,
        blocks_total=10,
        blocks_used=3,
        blocks_shared=1,
        blocks_cached=4,
        evicted_blocks=[(0.5, 2), (70.0, 1)],
        recomputed_tokens=7,
        preemptions=3,
        preemptions_by_reason={"fairness": 2, "memory": 1},
        tenants_running=3,
        forward_s=0.25,
        sample_s=0.125,
    )
    metrics.on_step(stats)
    metrics.on_step(stats)
    expected: dict[str, tuple[str, dict[str, float]]] = {
        "num_requests_waiting_by_class": ("service_class", {"urgent": 1, "interactive": 3, "background": 5}),
        "num_requests_waiting_by_reason": ("reason", {"capacity": 7, "deferred": 2}),
        "queued_prompt_tokens": ("state", {"waiting": 60, "cached": 30, "running": 7}),
        "num_preemptions_by_reason_total": (
            "reason",
            {"memory": 2, "service_class": 0, "priority": 0, "fairness": 4},
        ),
        "num_tenants": ("state", {"running": 3, "waiting": 0}),
        "kv_cache_blocks": ("state", {"used": 2, "shared": 1, "cached": 4, "blank": 3}),
        "step_phase_seconds_total": ("phase", {"forward": 0.5, "sample": 0.25, "draft": 0}),
        "wasted_tokens_total": ("cause", {"preemption": 14, "abort": 0, "error": 0}),
    }
    for name, (label, values) in expected.items():
        found = {value: _value(metrics, f"headrace_{name}", **{label: value}) for value in values}
        assert found == values, name
    assert _value(metrics, "headrace_kv_cache_evictions_total") == 6
    assert _value(metrics, "headrace_kv_block_idle_before_evict_seconds_sum") == 142
    assert _value(metrics, "headrace_kv_block_idle_before_evict_seconds_bucket", le="1.0") == 4


def test_an_engine_that_is_gone_leaves_gauges_at_0_and_counters_alone() -> None:
    metrics = Metrics(MODEL)
    metrics.on_step(StepStats(running=3, blocks_total=8, blocks_used=8, preemptions=4, step_s=0.1, decode_tokens=3))
    metrics.on_step(StepStats())
    metrics.add("engine_restarts_total", 1, RestartReason.CRASH.value)
    assert _value(metrics, "headrace_num_requests_running") == 0
    assert _value(metrics, "headrace_kv_cache_usage_perc") == 0
    assert _value(metrics, "headrace_num_preemptions_total") == 4
    assert _value(metrics, "headrace_step_duration_seconds_count") == 1
    restarts = {
        each.value: _value(metrics, "headrace_engine_restarts_total", reason=each.value) for each in RestartReason
    }
    assert restarts == {"crash": 1, "hang": 0}


def test_rows_of_experts_are_counted_by_expert() -> None:
    metrics = Metrics(MODEL)
    metrics.on_step(StepStats(expert_rows=[4, 0, 2], expert_imbalance=2.0))
    metrics.on_step(StepStats(expert_rows=[1, 3, 0], expert_imbalance=1.5))
    counts = [_value(metrics, "headrace_expert_rows_total", expert=str(expert)) for expert in range(3)]
    assert counts == [5, 3, 2]
    assert _value(metrics, "headrace_expert_imbalance") == 1.5


def test_very_many_experts_share_series() -> None:
    metrics = Metrics(MODEL)
    metrics.on_step(StepStats(expert_rows=[1] * 600))
    series = [
        labels for name, labels in _samples(metrics.scrape("")[0].decode()) if name == "headrace_expert_rows_total"
    ]
    assert len(series) == 200
    assert _value(metrics, "headrace_expert_rows_total", expert="597-599") == 3


def test_the_table_is_what_is_exported() -> None:
    metrics = Metrics(MODEL)
    metrics.count_http(RequestRecord("id", "GET", metrics.count_request))
    families = list(text_string_to_metric_families(metrics.scrape("")[0].decode()))
    exported = {family.name: family.type for family in families if family.name.startswith(PREFIX)}
    assert exported == {_family_name(spec): spec.type.value for spec in METRICS}
    assert {"process_resident_memory_bytes", "python_gc_collections"} <= {family.name for family in families}


def test_a_gauge_that_comes_back_to_a_value_is_written_again() -> None:
    metrics = Metrics(MODEL)
    told = []
    for running in (0, 3, 3, 0, 3):
        metrics.on_step(StepStats(running=running))
        told.append(_value(metrics, "headrace_num_requests_running"))
    assert told == [0, 3, 3, 0, 3]


def test_two_servers_in_one_process_have_metrics_of_their_own() -> None:
    one, two = Metrics(MODEL), Metrics(MODEL)
    one.add("engine_restarts_total", 1, RestartReason.HANG.value)
    assert _value(two, "headrace_engine_restarts_total", reason="hang") == 0


def _family_name(spec: MetricSpec) -> str:
    """The parser drops the suffix of counters."""
    return spec.exported.removesuffix("_total") if spec.type is MetricType.COUNTER else spec.exported
