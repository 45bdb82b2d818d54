"""POST /v1/decisions, in OpenAI's format."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from server.decisions.computing import decide
from server.decisions.decision import Decision
from server.decisions.openai_form import answer_of, decision_of
from server.decisions.prompt import DecisionPrompt, decision_prompt
from server.decisions.scoring import EngineScorer
from server.decisions.wording import VERSION
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.generation.slo import check_first_token
from server.generation.terms import RequestTerms, request_terms
from server.http.body import json_response
from server.http.disconnect import until_disconnect
from server.openapi.operation import JSON
from server.schemas.decisions import DecisionRequest
from server.schemas.decisions_answers import DecisionAnswer
from server.schemas.parameters import DECISION_PARAMETERS, ignored_header, ignored_parameters
from server.served.model import ServedModel

_WORDING_HEADER = "x-decision-wording"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionWork:
    """A tokenized decision."""

    model: ServedModel
    decision: Decision
    prompt: DecisionPrompt
    terms: RequestTerms
    headers: dict[str, str]

    async def respond(self, request: Request) -> Response:
        return json_response(await until_disconnect(self._answer(), request.receive), self.headers)

    async def collect(self) -> DecisionAnswer:
        async with self.model.client.batch_lane.room(EngineScorer.max_at_once(self.model, self.prompt)):
            return await self._answer()

    async def _answer(self) -> DecisionAnswer:
        decided = await decide(self.model, self.decision, self.prompt, self.terms)
        return answer_of(self.decision, decided, self.model.name)


async def _check(body: DecisionRequest, request: EndpointRequest) -> None:
    _checked(body, request)
    if request.model.info is not None:
        request.suitable.check_generates(request.model)


async def _prepare(body: DecisionRequest, request: EndpointRequest) -> DecisionWork:
    model = request.model
    async with request.preparing():
        decision, ignored = _checked(body, request)
        terms = request_terms(body, model, request.arrival_s)
        check_first_token(model, terms, 1)
        async with terms.in_time():
            text_model = await model.text_model()
            render = partial(decision_prompt, decision, text_model, model.client.info, cache_salt=terms.cache_salt)
            prompt = await text_model.workers.run(render, size=decision.num_characters)
    headers = {_WORDING_HEADER: VERSION, **ignored_header(ignored)}
    return DecisionWork(model=model, decision=decision, prompt=prompt, terms=terms, headers=headers)


def _checked(body: DecisionRequest, request: EndpointRequest) -> tuple[Decision, list[str]]:
    """Check what needs no engine; return the decision and the names of ignored fields. Raises InvalidRequest."""
    config = request.model.config
    ignored = ignored_parameters(body.extra, strict=config.strict_parameters, table=DECISION_PARAMETERS)
    if body.priority and not request.model.honors_priority:
        ignored.append("priority")
    return decision_of(body, config.decision_min_mass), ignored


DECISIONS: Endpoint[Any] = Endpoint(
    path="/v1/decisions",
    name="create_decision",
    summary="Answer questions about an input with probabilities: of a statement, of options, of levels.",
    tag="Decisions",
    bodies=(DecisionRequest,),
    capability=Capability.GENERATES,
    check=_check,
    prepare=_prepare,
    answers={JSON: DecisionAnswer},
    example={
        "input": "The parcel came two weeks late, and nobody answers the phone.",
        "questions": [
            {"type": "predicate", "name": "complaint", "instructions": "The writer complains."},
            {
                "type": "choice",
                "name": "team",
                "instructions": "Which team should read it?",
                "choices": [{"value": "delivery", "description": "parcels on their way"}, {"value": "billing"}],
            },
            {
                "type": "score",
                "name": "anger",
                "instructions": "How angry is the writer?",
                "levels": [{"label": "calm"}, {"label": "annoyed"}, {"label": "furious"}],
            },
        ],
    },
    is_batchable=True,
)
ENDPOINTS = (DECISIONS,)
