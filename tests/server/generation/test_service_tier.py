"""service_tier: the class that the engine gets, the answer's field, and the counts."""

from typing import Any

import pytest

from engine.protocol import ServiceClass
from server.generation.terms import RequestTerms
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: list[tuple[str, dict[str, Any]]] = [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "hi"})]


async def _post(client: FakeClient, path: str, body: dict[str, Any]) -> Any:
    async with http(make_app(client)) as api:
        return await api.post(path, json=body)


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize(
    ("tier", "service_class", "served"),
    [
        ("auto", ServiceClass.INTERACTIVE, "default"),
        ("default", ServiceClass.INTERACTIVE, "default"),
        ("flex", ServiceClass.BACKGROUND, "flex"),
        ("priority", ServiceClass.URGENT, "priority"),
    ],
)
async def test_a_tier_is_a_class_of_the_engine_and_told_in_the_answer(
    path: str, body: dict[str, Any], tier: str, service_class: ServiceClass, served: str
) -> None:
    client = FakeClient(says("xy"))
    whole = await _post(client, path, {**body, "service_tier": tier})
    assert whole.json()["service_tier"] == served
    assert "x-ignored-parameters" not in whole.headers
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, _ = events((await _post(client, path, {**body, "service_tier": tier, **options})).text)
    assert {chunk["service_tier"] for chunk in chunks} == {served}
    assert {request.service_class for request in client.requests} == {service_class}


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_an_answer_tells_no_tier_that_was_not_asked_for(path: str, body: dict[str, Any]) -> None:
    client = FakeClient(says("x"))
    assert "service_tier" not in (await _post(client, path, {**body, "service_tier": None})).json()
    assert "service_tier" not in (await _post(client, path, {**body, "stream": True})).text
    assert client.requests[0].service_class is ServiceClass.INTERACTIVE


@pytest.mark.parametrize("tier", ["scale", "", 3, ["flex"]])
async def test_another_tier_is_refused(tier: object) -> None:
    response = await _post(FakeClient(says("x")), *BODIES[0][:1], {**CHAT, "service_tier": tier})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "service_tier"
    assert "'flex'" in response.json()["error"]["message"]


async def test_choices_are_counted_by_tier() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        await api.post(BODIES[0][0], json={**CHAT, "service_tier": "flex", "n": 2})
        await api.post(BODIES[0][0], json=CHAT)
        metrics = (await api.get("/metrics")).text
    counted = 'headrace_service_tier_requests_total{model_name="org/tiny",service_tier='
    assert f'{counted}"flex"}} 2.0' in metrics
    assert f'{counted}"default"}} 1.0' in metrics


def test_a_line_of_a_batch_waits_as_long_as_clients_have_work_whatever_its_tier() -> None:
    terms = RequestTerms(arrival_s=5.0, service_tier="priority", queue_timeout_s=3.0, is_batch=True)
    assert (terms.service_class, terms.start_by_s) == (ServiceClass.BATCH, None)
