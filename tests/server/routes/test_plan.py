"""GET /v1/plan: the plan of a served model, for operators alone, and refusals."""

from typing import Any

import msgspec
import pytest

from engine.simulation.planning.job import ServedPlanJob
from engine.simulation.planning.plan import Plan, make_plan
from engine.simulation.planning.search import LoadKind, Servers
from server.routes import plan as route
from tests.engine.simulation.planning.test_search import EVEN
from tests.helpers.asgi import RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, make_app, says

SIMULATED = msgspec.json.encode(EVEN)
QUERY = "input=8&output=4&concurrency=2&slo=request%3D400ms"


def client() -> FakeClient:
    return FakeClient(says("x"), info=engine_info(simulated=SIMULATED, max_num_seqs=4))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[ServedPlanJob]:
    """Jobs of the route, which are planned in this process."""
    sent: list[ServedPlanJob] = []

    async def planned(job: ServedPlanJob) -> Plan:
        sent.append(job)
        return make_plan(
            Servers(job.model, job.engine, 1), job.requests, job.kind, job.amount, job.slo, has_changes=job.has_changes
        )

    monkeypatch.setattr(route, "_planned", planned)
    return sent


async def _get(query: str) -> tuple[int, Any, str | None]:
    async with http(make_app(client())) as api:
        response = await api.get(f"/v1/plan?{query}")
    return response.status_code, response.json(), response.headers.get("x-ignored-parameters")


@pytest.mark.fast
async def test_a_plan_has_the_served_models_times_and_options(jobs: list[ServedPlanJob]) -> None:
    status, answer, ignored = await _get(f"{QUERY}&changes=true&color=red")
    assert (status, ignored) == (200, "color")
    assert answer["model"] == MODEL  # not the path of its file
    assert (answer["given"]["amount"], answer["hardware_source"], answer["kind"]) == (2, "made up", "concurrency")
    assert answer["alone"]["ttft_s"]["p50"] == pytest.approx(0.08)
    assert [each["name"] for each in answer["changes"]] == ["2 servers", "prompts of 16 tokens"]
    assert answer["one_more_fits"] is (answer["largest"]["amount"] >= 3)
    assert (jobs[0].engine.max_num_seqs, jobs[0].engine.max_num_batched_tokens) == (4, 64)


@pytest.mark.fast
async def test_without_a_query_it_plans_one_user(jobs: list[ServedPlanJob]) -> None:
    status, answer, _ = await _get("")
    assert status == 200
    assert (jobs[0].kind, jobs[0].amount, jobs[0].has_changes) == (LoadKind.CONCURRENCY, 1, False)
    assert answer["slo_s"] == {"ttft": 2.0, "tpot": 0.1}


@pytest.mark.fast
@pytest.mark.usefixtures("jobs")
async def test_a_rate_far_above_what_the_server_computes_is_answered() -> None:
    status, answer, _ = await _get("input=8&output=4&rate=1e9")
    assert (status, answer["given"]["amount"], answer["given"]["ttft_s"]) == (200, 1e9, None)
    assert "grows without end" in answer["given"]["misses"][0]


@pytest.mark.fast
async def test_it_is_for_operators() -> None:
    request = RawRequest(make_app(client()), "/v1/plan", {}, method="GET", client=("203.0.113.9", 5000))
    async with request:
        await request.ended()
    assert request.status == 403


@pytest.mark.fast
@pytest.mark.parametrize(
    ("query", "param", "reason"),
    [
        ("slo=speed%3D1s", "slo", "'speed', which is no limit"),
        ("input=many", "input", "input is 'many'"),
        ("output=0", "output", "output is '0'"),
        ("rate=1&concurrency=1", "rate", "give either rate"),
        ("rate=fast", "rate", "must be a number of requests a second above 0"),
        ("rate=-1", "rate", "above 0"),
        ("rate=nan", "rate", "above 0"),
        ("rate=1e10", "rate", "above 0, at most 1,000,000,000"),
        ("concurrency=0", "concurrency", "it must be a whole number from 1 to 1,024"),
        ("concurrency=2000", "concurrency", "it must be a whole number from 1 to 1,024"),
        ("concurrency=x", "concurrency", "concurrency is 'x'; it must be a whole number from 1 to 1,024"),
        ("changes=yes", "changes", "it must be true or false"),
    ],
)
async def test_odd_queries_are_refused(query: str, param: str, reason: str) -> None:
    status, answer, _ = await _get(query)
    assert (status, answer["error"]["param"]) == (400, param)
    assert reason in answer["error"]["message"]


@pytest.mark.fast
async def test_a_model_whose_steps_are_not_simulated_is_refused() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.get("/v1/plan")
    assert response.status_code == 400
    assert "its steps are not simulated" in response.json()["error"]["message"]


async def test_the_process_plans_and_refuses() -> None:
    status, answer, _ = await _get(QUERY)
    assert (status, answer["given"]["amount"]) == (200, 2)
    status, answer, _ = await _get("input=2000")
    assert (status, answer["error"]["param"]) == (400, "input")
    assert "a request of this load is refused" in answer["error"]["message"]
    status, answer, _ = await _get("input=20000000")
    assert (status, answer["error"]["param"]) == (400, "input")
    assert "lower the lengths of input or output" in answer["error"]["message"]
