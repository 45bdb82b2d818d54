"""POST /v1/moderations, in OpenAI's format."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.generation.slo import check_first_token
from server.generation.terms import RequestTerms, request_terms
from server.http.body import json_response
from server.http.disconnect import until_disconnect
from server.moderations.categories import ModerationPrompt
from server.moderations.computing import moderate
from server.moderations.openai_form import moderation_answer
from server.moderations.prompt import moderation_prompt
from server.openapi.operation import JSON
from server.schemas.moderations import ModerationAnswer, ModerationRequest
from server.schemas.parameters import MODERATION_PARAMETERS, ignored_header, ignored_parameters
from server.served.model import ServedModel

_WORDING_HEADER = "x-moderation-wording"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationWork:
    """Tokenized questions about each text."""

    model: ServedModel
    prompts: Sequence[ModerationPrompt]
    terms: RequestTerms
    headers: dict[str, str]

    async def respond(self, request: Request) -> Response:
        return json_response(await until_disconnect(self._answer(), request.receive), self.headers)

    async def collect(self) -> ModerationAnswer:
        async with self.model.client.batch_lane.room(1):
            return await self._answer()

    async def _answer(self) -> ModerationAnswer:
        moderated = await moderate(self.model, self.prompts, self.terms)
        return moderation_answer(f"modr-{uuid.uuid4().hex}", self.model, moderated)


async def _check(body: ModerationRequest, request: EndpointRequest) -> None:
    _ignored(body, request)
    if request.model.info is not None:
        request.suitable.check_generates(request.model)


async def _prepare(body: ModerationRequest, request: EndpointRequest) -> ModerationWork:
    model = request.model
    async with request.preparing():
        ignored = _ignored(body, request)
        terms = request_terms(body, model, request.arrival_s)
        check_first_token(model, terms, 1)
        async with terms.in_time():
            text_model = await model.text_model()
            info = model.client.info
            texts = body.texts
            min_mass = model.config.decision_min_mass if body.min_mass is None else body.min_mass

            def render() -> list[ModerationPrompt]:
                return [
                    moderation_prompt(text, path, text_model, info, min_mass=min_mass, cache_salt=terms.cache_salt)
                    for text, path in texts
                ]

            prompts = await text_model.workers.run(render, size=sum(len(text) for text, _ in texts))
    headers = {_WORDING_HEADER: prompts[0].wording, **ignored_header(ignored)}
    return ModerationWork(model=model, prompts=prompts, terms=terms, headers=headers)


def _ignored(body: ModerationRequest, request: EndpointRequest) -> list[str]:
    """Return the names of ignored fields. Raises InvalidRequest for fields that are refused."""
    strict = request.model.config.strict_parameters
    ignored = ignored_parameters(body.extra, strict=strict, table=MODERATION_PARAMETERS)
    if body.priority and not request.model.honors_priority:
        ignored.append("priority")
    return ignored


MODERATIONS: Endpoint[Any] = Endpoint(
    path="/v1/moderations",
    name="create_moderation",
    summary="Score texts in OpenAI's 13 categories of harmful content.",
    tag="Decisions",
    bodies=(ModerationRequest,),
    capability=Capability.GENERATES,
    check=_check,
    prepare=_prepare,
    answers={JSON: ModerationAnswer},
    example={"input": ["I will find you, and then you will be sorry.", "Where can I buy a hammer?"]},
    is_batchable=True,
)
ENDPOINTS = (MODERATIONS,)
