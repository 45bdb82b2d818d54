"""/v1/fine_tuning/alpha/graders: check graders, or try them on a sample, before a job trains with them."""

import asyncio
import time
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine.command_io.finetuning.graders.definitions import Grader, references
from engine.command_io.finetuning.graders.grading import Grading, ScoreQuestion
from engine.command_io.finetuning.graders.parsing import ignored_fields, parse_grader, with_names
from engine.command_io.finetuning.graders.sample import Sample
from server.batches.running import run_body
from server.context import ServerContext
from server.finetuning.grader_run import grader_run
from server.finetuning.jobs.requested_grader import check_models
from server.finetuning.scoring import ENDPOINT, Scored, TokenUsage, chat_body, read_chat_score, unscored
from server.http.body import Context, json_body
from server.http.disconnect import until_disconnect
from server.keys.caller import Caller, current_caller
from server.schemas.grader_answers import GraderRun, GraderValidation
from server.schemas.graders import GraderRunRequest, GraderValidateRequest
from server.schemas.parameters import ignored_header, ignored_parameters, refuse_unknown
from server.text.json_size import json_size

router = APIRouter(tags=["Fine-tuning"])

_ANSWER_TIMEOUT_S = 300.0


@router.post("/v1/fine_tuning/alpha/graders/validate")
async def validate_grader(
    context: Context, body: Annotated[GraderValidateRequest, Depends(json_body(GraderValidateRequest))]
) -> Response:
    """Check a grader."""
    _, headers = await _checked(context, body)
    return _json(GraderValidation(with_names(body.grader)), headers)


@router.post("/v1/fine_tuning/alpha/graders/run")
async def run_grader(
    request: Request, context: Context, body: Annotated[GraderRunRequest, Depends(json_body(GraderRunRequest))]
) -> Response:
    """Grade one sample. Requests to models that grade run behind clients' requests, as lines of batches do."""
    context.drain.check()
    grader, headers = await _checked(context, body)
    return _json(await until_disconnect(_graded(context, grader, body), request.receive), headers)


async def _checked(context: ServerContext, body: GraderValidateRequest) -> tuple[Grader, dict[str, str]]:
    """Return the grader, and headers that list the fields without effect. Raises InvalidRequest."""
    given = body.grader
    grader = await context.workers.run_unless_short(lambda: parse_grader(given, "grader"), size=json_size(given))
    check_models(grader, context.models, "grader")
    unused = ignored_fields(body.grader, "grader")
    if context.config.strict_parameters:
        refuse_unknown(unused)
    ignored = [*ignored_parameters(body.extra, strict=context.config.strict_parameters), *unused]
    return grader, ignored_header(ignored)


async def _graded(context: ServerContext, grader: Grader, body: GraderRunRequest) -> GraderRun:
    start_s = time.monotonic()
    item, sample = body.item or {}, Sample(body.model_sample)
    size = _size(grader, body)
    grading = await context.workers.run_unless_short(lambda: Grading(grader, item, sample), size=size)
    paths, questions = list(grading.questions), list(grading.questions.values())
    caller = current_caller()
    tasks = [asyncio.create_task(_scored(context, caller, question)) for question in questions]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    usages: dict[str, TokenUsage] = {}
    for question, answer in zip(questions, answers, strict=True):
        usages[question.model] = usages.get(question.model, TokenUsage()) + answer.usage
    known = {path: each.answer for path, each in zip(paths, answers, strict=True)}
    grade = await context.workers.run_unless_short(lambda: grading.grade(known), size=size)
    return grader_run(grader, grade, usages, time.monotonic() - start_s)


def _size(grader: Grader, body: GraderRunRequest) -> int:
    """Return the size of the text that is graded: templates may repeat a short sample many times."""
    num_repeats = sum(1 for _ in references(grader))
    return json_size(body.grader) + num_repeats * (len(body.model_sample) + json_size(body.item))


async def _scored(context: ServerContext, caller: Caller, question: ScoreQuestion) -> Scored:
    """Answer one question, in a task of its own, which is marked as work of a batch."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            answer = await run_body(context, caller, ENDPOINT, chat_body(question))
    except TimeoutError:
        return Scored(unscored(f"the model did not answer within {_ANSWER_TIMEOUT_S:g} s; try again later"))
    return read_chat_score(answer.status_code, answer.body)


def _json(answer: GraderRun | GraderValidation, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")
