"""A line's body is answered as by HTTP, and waits for what passes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from engine.client.open_streams import MAX_DEATHS
from engine.errors import EngineDied, EngineStopped, ModelUnusable, StartupError
from engine.protocol import EngineRequest, ServiceClass
from server.batches.running import run_body
from server.context import ServerContext
from server.errors import BudgetSpent
from server.jobs.answers import BodyAnswer
from server.keys.caller import ANYBODY, Caller, name_owner
from server.served.adapter import ServedAdapter
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, Script, Step, engine_info, http, make_app, pooling_client, says
from tests.helpers.fake_trainer import trained_client
from tests.helpers.keys import api_key, bearer, entry, secret, write_keys
from tests.helpers.several import make_several
from tests.helpers.several_requests import until

pytestmark = pytest.mark.fast

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": MESSAGES, "seed": 1, "logprobs": True},
    COMPLETIONS: {"model": MODEL, "prompt": ["a", "b"], "max_tokens": 2},
    RESPONSES: {"model": MODEL, "input": "hi", "store": False},
}


class _Waits:
    """A sleep that takes no time, and does something."""

    def __init__(self, then: Any = lambda: None) -> None:
        self.seconds: list[float] = []
        self._then = then

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._then()
        await asyncio.sleep(0)  # what it waits for gets its turn


def _context(client: FakeClient, **options: object) -> ServerContext:
    context: ServerContext = make_app(client, **options).state.context
    return context


async def _run(
    context: ServerContext, endpoint: str, body: dict[str, Any], caller: Caller = ANYBODY, sleep: Any = None
) -> BodyAnswer:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.create_task(run_body(context, caller, endpoint, body, sleep=sleep or _Waits()))


def _without_ids(answer: Any) -> Any:
    """The answer without what two equal requests differ in."""
    if isinstance(answer, list):
        return [_without_ids(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    own = ("id", "created", "created_at", "completed_at")
    return {key: _without_ids(value) for key, value in answer.items() if key not in own}


@pytest.mark.parametrize("endpoint", BODIES)
async def test_a_line_is_answered_as_by_http(endpoint: str) -> None:
    client = FakeClient(says("Because."))
    app = make_app(client)
    async with http(app) as caller:
        expected = (await caller.post(endpoint, json=BODIES[endpoint])).json()
    answer = await _run(app.state.context, endpoint, BODIES[endpoint])
    assert answer.status_code == 200
    assert _without_ids(json.loads(answer.body)) == _without_ids(expected)
    assert answer.usage.output_tokens > 0


@pytest.mark.parametrize("endpoint", BODIES)
async def test_what_has_no_effect_is_told_as_by_http(endpoint: str) -> None:
    app = make_app(FakeClient(says("Because.")))
    body = {**BODIES[endpoint], "user": "me", "frobnicate": 1}
    async with http(app) as caller:
        expected = (await caller.post(endpoint, json=body)).headers["x-ignored-parameters"]
    answer = await _run(app.state.context, endpoint, body)
    assert answer.headers == {"x-ignored-parameters": expected}
    assert "frobnicate" in expected
    assert (await _run(app.state.context, endpoint, BODIES[endpoint])).headers == {}


async def test_embeddings_tell_what_has_no_effect() -> None:
    answer = await _run(make_app(pooling_client()).state.context, EMBEDDINGS, {"input": "hi", "frobnicate": 1})
    assert answer.headers == {"x-ignored-parameters": "frobnicate"}


async def test_tokens_come_one_by_one_only_where_text_ends_the_answer() -> None:
    client = FakeClient(says("Because."))
    context = _context(client)
    for body in (BODIES[CHAT], {**BODIES[CHAT], "stop": "x"}):
        await _run(context, CHAT, body)
    assert [request.tokens_per_output > 1 for request in client.requests] == [True, False]
    async with http(make_app(client)) as caller:
        await caller.post(CHAT, json=BODIES[CHAT])
    assert client.requests[-1].tokens_per_output == 1


@pytest.mark.parametrize("endpoint", BODIES)
async def test_a_wrong_body_is_answered_as_by_http(endpoint: str) -> None:
    body = {**BODIES[endpoint], "temperature": "hot"}
    app = make_app(FakeClient(says("Because.")))
    async with http(app) as caller:
        expected = await caller.post(endpoint, json=body)
    answer = await _run(app.state.context, endpoint, body)
    assert (answer.status_code, json.loads(answer.body)) == (400, expected.json())


async def test_a_line_for_embeddings_is_answered_as_by_http() -> None:
    app = make_app(pooling_client())
    body = {"model": MODEL, "input": ["hi", "a"]}
    async with http(app) as caller:
        expected = (await caller.post("/v1/embeddings", json=body)).json()
    answer = await _run(app.state.context, "/v1/embeddings", body)
    assert json.loads(answer.body) == expected
    assert answer.usage.input_tokens == expected["usage"]["prompt_tokens"]
    wrong = await _run(app.state.context, CHAT, BODIES[CHAT])
    assert (wrong.status_code, json.loads(wrong.body)["error"]["code"]) == (400, "model_not_suited")


async def test_a_line_with_a_decision_is_answered_as_by_http() -> None:
    app = make_app(FakeClient(says("x"), engine_info(max_model_len=1000)))
    body = {"input": "A raft.", "questions": [{"type": "predicate", "instructions": "It floats."}], "min_mass": 0}
    async with http(app) as caller:
        expected = (await caller.post("/v1/decisions", json=body)).json()
    answer = await _run(app.state.context, "/v1/decisions", body)
    assert json.loads(answer.body) == expected
    assert answer.usage.input_tokens == expected["usage"]["input_tokens"]


@pytest.mark.parametrize("state", ["A raft.", ""])
async def test_a_line_for_system_one_is_answered_as_by_http(state: str) -> None:
    app = make_app(FakeClient(says("x"), engine_info(max_model_len=1000)))
    body = {"state": state, "questions": {"floats": {"type": "noul", "instructions": "Does it float?"}}, "min_mass": 0}
    async with http(app) as caller:
        expected = await caller.post("/v1/systemone", json=body)
    answer = await _run(app.state.context, "/v1/systemone", body)
    assert (answer.status_code, json.loads(answer.body)) == (expected.status_code, expected.json())
    assert expected.status_code == (200 if state else 422)


async def test_a_line_with_a_moderation_is_answered_as_by_http() -> None:
    app = make_app(FakeClient(says("x"), engine_info(max_model_len=1000)))
    body = {"input": ["A raft.", "A boat."], "min_mass": 0}
    async with http(app) as caller:
        expected = (await caller.post("/v1/moderations", json=body)).json()
    answer = await _run(app.state.context, "/v1/moderations", body)
    assert {**json.loads(answer.body), "id": expected["id"]} == expected
    assert answer.usage.input_tokens == expected["usage"]["input_tokens"]


async def test_an_unknown_model_is_a_404() -> None:
    answer = await _run(_context(FakeClient(says(""))), CHAT, {"model": "other", "messages": MESSAGES})
    assert answer.status_code == 404


async def test_nobody_waits_for_a_line() -> None:
    client = FakeClient(says("Because."))
    client.first_token_s = 10.0
    context = _context(client, queue_timeout=5.0, ttft_slo=1.0)
    answer = await _run(context, CHAT, {**BODIES[CHAT], "service_tier": "priority"})
    assert answer.status_code == 200
    assert client.requests[0].service_class is ServiceClass.BATCH
    assert client.requests[0].start_by_s is None


async def test_clients_that_fill_their_queue_are_none_of_a_lines_business() -> None:
    for client, endpoint in ((FakeClient(says("Because.")), CHAT), (pooling_client(), EMBEDDINGS)):
        client.capacity = 0
        body = BODIES.get(endpoint, {"model": MODEL, "input": "hi"})
        assert (await _run(_context(client), endpoint, body)).status_code == 200


async def test_the_times_of_lines_hide_none_of_clients() -> None:
    context = _context(FakeClient(says("Because.")))
    assert (await _run(context, CHAT, BODIES[CHAT])).status_code == 200
    text = context.metrics.scrape("")[0].decode()
    for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency", "request_queue_time"):
        assert f'headrace_{name}_seconds_count{{model_name="{MODEL}"}} 0.0' in text, name
    assert f'headrace_generation_tokens_total{{model_name="{MODEL}"}} {len("Because.")}.0' in text


async def test_room_in_the_lane_is_waited_for() -> None:
    gate = asyncio.Event()
    client = FakeClient(lambda request: [gate, *says("Because.")(request)], batch_limit=2)
    context = _context(client)
    lines = [asyncio.create_task(_run(context, CHAT, {**BODIES[CHAT], "n": 2}))]
    async with asyncio.timeout(DEADLINE_S):
        while len(client.requests) < 2:
            await asyncio.sleep(0)
    lines.append(asyncio.create_task(_run(context, CHAT, BODIES[CHAT])))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(client.requests) == 2
    gate.set()
    assert [(await line).status_code for line in lines] == [200, 200]
    assert len(client.requests) == 3


async def test_a_drain_is_waited_for() -> None:
    context = _context(FakeClient(says("Because.")))
    context.drain.start(0.0)
    assert (await _run(context, CHAT, BODIES[CHAT], sleep=_Waits(context.drain.cancel))).status_code == 200


def _dies(times: int, num_deaths: int) -> Script:
    """So many times the end of an engine, and then an answer. num_deaths: as EngineDied has it."""
    left = [times]

    def script(request: EngineRequest) -> list[Step]:
        left[0] -= 1
        return [EngineDied("the engine ended", num_deaths=num_deaths)] if left[0] >= 0 else says("Because.")(request)

    return script


@pytest.mark.parametrize(("num_deaths", "num_runs"), [(MAX_DEATHS, 1), (1, MAX_DEATHS)])
async def test_a_line_that_two_engines_died_of_is_not_run_again(num_deaths: int, num_runs: int) -> None:
    """Whether one request outlived the first of them, or each ended with its engine."""
    client = FakeClient(_dies(100, num_deaths))
    answer = await _run(_context(client), CHAT, BODIES[CHAT])
    assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (503, "engine_died")
    assert len(client.requests) == num_runs


@pytest.mark.parametrize(("times", "num_deaths"), [(100, 0), (1, 1)])
async def test_a_line_that_is_not_suspect_is_run_again_when_an_engine_dies(times: int, num_deaths: int) -> None:
    client = FakeClient(_dies(times, num_deaths))
    assert (await _run(_context(client), CHAT, BODIES[CHAT])).status_code == 200
    assert len(client.requests) == times + 1


async def test_a_model_that_failed_for_good_is_not_waited_for() -> None:
    several = make_several({"alpha": 1}, 10)
    several.loads_at_once = False
    line = asyncio.create_task(_run(several.app.state.context, CHAT, {"model": "alpha", "messages": MESSAGES}))
    await until(lambda: "alpha" in several.engines)
    several.engine("alpha").failure = ModelUnusable("no such tensor")
    several.engine("alpha").may_load.set()
    answer = await line
    assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (503, "model_failed")


async def test_a_failure_to_load_that_may_pass_is_waited_for() -> None:
    several = make_several({"alpha": 1}, 10)
    several.loads_at_once = False
    waits = _Waits(lambda: asyncio.ensure_future(several.loader.ensure_loaded("alpha")))
    context = several.app.state.context
    line = asyncio.create_task(_run(context, CHAT, {"model": "alpha", "messages": MESSAGES}, sleep=waits))
    await until(lambda: "alpha" in several.engines)
    several.engine("alpha").failure = StartupError("too little memory")
    several.loads_at_once = True  # the next one
    several.engine("alpha").may_load.set()
    assert (await line).status_code == 200
    assert waits.seconds


async def test_the_servers_end_is_no_answer() -> None:
    with pytest.raises(EngineStopped):
        await _run(_context(FakeClient(lambda _: [EngineStopped("stopping")])), CHAT, BODIES[CHAT])


async def test_a_response_is_stored_only_where_the_line_says_so() -> None:
    app = make_app(FakeClient(says("Because.")))
    context = app.state.context
    unsaid = json.loads((await _run(context, RESPONSES, {"input": "hi"})).body)
    stored = json.loads((await _run(context, RESPONSES, {"input": "hi", "store": True})).body)
    async with http(app) as client:
        assert (await client.get(f"/v1/responses/{unsaid['id']}")).status_code == 404
        assert (await client.get(f"/v1/responses/{stored['id']}")).json()["output"] == stored["output"]


async def test_rates_do_not_hold_a_line_up_and_usage_counts(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys", entry("ann", requests_per_minute=1, tokens_per_minute=50, max_concurrency=1))
    client = FakeClient(says("Because."))
    app = make_app(client, api_keys_file=keys)
    context = app.state.context
    caller = context.keys.ring.batch_caller(name_owner("ann"))
    for _ in range(3):
        assert (await _run(context, CHAT, {**BODIES[CHAT], "max_tokens": 40}, caller)).status_code == 200
    assert client.requests[0].tenant == "ann"
    async with http(app) as http_client:
        report = (await http_client.get("/v1/usage", headers=bearer("ann"))).json()
    assert report["data"][0]["requests"] == {"completed": 3}
    assert report["data"][0]["output_tokens"] == 3 * len("Because.")


async def test_more_tokens_than_a_minute_brings_are_not_waited_for(tmp_path: Path) -> None:
    """A client's key has rates, also where its request is computed as a batch's line is."""
    keys = write_keys(tmp_path / "keys", entry("ann", tokens_per_minute=5))
    context = _context(FakeClient(says("Because.")), api_keys_file=keys)
    caller = context.keys.ring.find(secret("ann").encode())

    async def no_sleep(seconds: float) -> None:
        raise AssertionError(f"it waits for {seconds} s")

    answer = await _run(context, CHAT, {**BODIES[CHAT], "max_tokens": 40}, caller, no_sleep)
    assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_a_spent_budget_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = write_keys(path, entry("ann", budget_tokens=0))
    context = _context(FakeClient(says("Because.")), api_keys_file=keys)
    ring = context.keys.ring
    caller = ring.batch_caller(name_owner("ann"))
    assert caller is not None

    def raise_budget() -> None:
        ring.replace([api_key("ann", budget_tokens=1000)])

    sleep = _Waits(raise_budget)
    assert (await _run(context, CHAT, {**BODIES[CHAT], "max_tokens": 9}, caller, sleep)).status_code == 200
    assert len(sleep.seconds) == 1


def test_clients_and_lines_of_a_key_reserve_of_one_budget(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", entry("ann", budget_tokens=1000))
    ring = _context(FakeClient(says("")), api_keys_file=path).keys.ring
    lines, clients = ring.batch_caller(name_owner("ann")), ring.find(secret("ann").encode())
    assert lines is not None
    assert lines.account is not None
    assert clients.account is not None
    work = lines.account.reserve(100, 500, is_open_ended=False)
    assert clients.account.budget_left == 400
    with pytest.raises(BudgetSpent):
        clients.account.reserve(100, 500, is_open_ended=False)
    lines.account.settle(work, 10)
    work = clients.account.reserve(100, 500, is_open_ended=False)
    assert lines.account.budget_left == 390
    clients.account.settle(work, 10)
    assert lines.account.budget_left == clients.account.budget_left == 980


def test_an_owner_whose_key_is_gone_has_no_caller(tmp_path: Path) -> None:
    context = _context(FakeClient(says("")), api_keys_file=write_keys(tmp_path / "keys", entry("ann")))
    assert context.keys.ring.batch_caller(name_owner("bob")) is None
    assert context.keys.ring.batch_caller("") is None
    assert _context(FakeClient(says(""))).keys.ring.batch_caller("") is ANYBODY


async def test_a_line_for_an_adapter_that_no_engine_has_read_has_it_read() -> None:
    context = _context(trained_client(), enable_lora=True)
    context.models.adapters.add(ServedAdapter("mine", "/adapters/mine", MODEL, owner=""))
    waits = _Waits()
    answer = await _run(context, CHAT, {**BODIES[CHAT], "model": "mine"}, sleep=waits)
    assert (answer.status_code, waits.seconds) == (200, [])
