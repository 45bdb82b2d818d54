"""Preparation and computation shared by the endpoints for decisions, which differ in their protocols alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from fastapi import Request
from starlette.responses import Response

from server.calibration.calibration import ModelCalibration
from server.decisions.calibrating import calibrated, calibration_header, calibration_of
from server.decisions.computing import Decided, decide
from server.decisions.decision import Decision
from server.decisions.prompt import DecisionPrompt, decision_prompt
from server.decisions.rotations import check_num_options, unrolled
from server.decisions.wording import VERSION
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.generation.slo import check_first_token
from server.generation.terms import RequestTerms, request_terms
from server.http.body import json_response
from server.http.disconnect import until_disconnect
from server.schemas.decision_fields import DecisionFields
from server.schemas.parameters import DECISION_PARAMETERS, ignored_header, ignored_parameters
from server.served.model import ServedModel
from server.text_model import TextModel

B = TypeVar("B", bound=DecisionFields)

_WORDING_HEADER = "x-decision-wording"
_QUESTION_SIZE = 1 << 10  # of a question with many options, as TextWorkers count


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionWork:
    """A tokenized decision. write: builds the protocol's answer from the results and the model's name."""

    model: ServedModel
    text_model: TextModel
    decision: Decision
    prompt: DecisionPrompt
    terms: RequestTerms
    write: Callable[[Decision, Decided, str], Any]
    headers: dict[str, str]
    is_calibrated: bool

    async def respond(self, request: Request) -> Response:
        answer, calibration = await until_disconnect(self._answer(), request.receive)
        return json_response(answer, {**self.headers, **calibration_header(calibration, self.decision.questions)})

    async def collect(self) -> Any:
        async with self.model.client.batch_lane.room(1):
            answer, _ = await self._answer()
        return answer

    async def _answer(self) -> tuple[Any, ModelCalibration | None]:
        """Return the answer and its calibration: that of the adapter's version that the engine used, since an adapter
        may be replaced while its request waits."""
        decided = await decide(self.model, self.decision, self.prompt, self.terms)
        calibration = await calibration_of(self.model, self.text_model) if self.is_calibrated else None
        size = _QUESTION_SIZE * len(self.decision.questions)
        write = partial(self._written, decided, calibration)
        return await self.text_model.workers.run_unless_short(write, size=size), calibration

    def _written(self, decided: Decided, calibration: ModelCalibration | None) -> Any:
        decided = calibrated(self.decision, decided, calibration)
        return self.write(self.decision, decided, self.model.name)


@dataclass(frozen=True, slots=True)
class DecisionProtocol(Generic[B]):
    """Translation between one protocol and Decision.

    read: makes the decision from a body and the default of min_mass, or raises InvalidRequest. write: makes the answer
    from the body, the decision, its results and the model's name. id_header: response header with the request's id.
    """

    read: Callable[[B, float], Decision]
    write: Callable[[B, Decision, Decided, str], Any]
    id_header: str | None = None

    async def check(self, body: B, request: EndpointRequest) -> None:
        await self._checked(body, request)
        if request.model.info is not None:
            request.suitable.check_generates(request.model)

    async def prepare(self, body: B, request: EndpointRequest) -> DecisionWork:
        model = request.model
        async with request.preparing():
            decision, size, ignored = await self._checked(body, request)
            terms = request_terms(body, model, request.arrival_s)
            check_first_token(model, terms, 1)
            async with terms.in_time():
                text_model = await model.text_model()
                every = unrolled(decision)
                render = partial(decision_prompt, every, text_model, model.client.info, cache_salt=terms.cache_salt)
                prompt = await text_model.workers.run(render, size=size * decision.permutations)
        headers = {_WORDING_HEADER: VERSION, **ignored_header(ignored)}
        if self.id_header is not None:
            headers[self.id_header] = request.id
        write = partial(self.write, body)
        return DecisionWork(
            model=model,
            text_model=text_model,
            decision=decision,
            prompt=prompt,
            terms=terms,
            write=write,
            headers=headers,
            is_calibrated=body.calibrated is not False,
        )

    async def _checked(self, body: B, request: EndpointRequest) -> tuple[Decision, int, list[str]]:
        """Check what needs no engine; return the decision, its characters, and the names of ignored fields.

        Many questions are read on a thread: 400 with 255 options take 0.3 s. Raises InvalidRequest.
        """
        config = request.model.config
        ignored = ignored_parameters(body.extra, strict=config.strict_parameters, table=DECISION_PARAMETERS)
        if body.priority and not request.model.honors_priority:
            ignored.append("priority")

        def read() -> tuple[Decision, int]:
            decision = self.read(body, config.decision_min_mass)
            check_num_options(decision)
            return decision, decision.num_characters

        size = _QUESTION_SIZE * len(body.questions)
        return *(await request.context.workers.run_unless_short(read, size=size)), ignored


def decision_endpoint(protocol: DecisionProtocol[Any], **fields: Any) -> Endpoint[Any]:
    """Return the endpoint of a protocol. fields: of Endpoint, where protocols differ."""
    return Endpoint(
        tag="Decisions",
        capability=Capability.GENERATES,
        check=protocol.check,
        prepare=protocol.prepare,
        is_batchable=True,
        **fields,
    )
