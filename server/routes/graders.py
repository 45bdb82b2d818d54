"""/v1/fine_tuning/alpha/graders: check graders, or try them on a sample, before a job trains with their rewards."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.command_io.finetuning.graders.definitions import Grader, needed_models, references
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import Grade, Grading, ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.graders.parsing import ignored_fields, parse_grader, with_names
from engine.command_io.finetuning.graders.sample import Sample
from server.batches.running import run_body
from server.context import ServerContext
from server.finetuning.jobs.requested_grader import check_models
from server.finetuning.scoring import ENDPOINT, chat_body, read_chat_score, unscored
from server.http.body import Context, Json, json_response
from server.http.disconnect import until_disconnect
from server.jobs.answers import AnswerUsage
from server.keys.caller import Caller, current_caller
from server.schemas.graders import (
    GraderErrors,
    GraderMetadata,
    GraderRun,
    GraderRunRequest,
    GraderValidateRequest,
    GraderValidation,
    ModelTokenUsage,
)
from server.schemas.parameters import ignored_header, ignored_parameters, refuse_unknown
from server.text.workers import json_size

router = APIRouter(tags=["Fine-tuning"])

_ANSWER_TIMEOUT_S = 300.0


@router.post("/v1/fine_tuning/alpha/graders/validate")
async def validate_grader(context: Context, body: Json[GraderValidateRequest]) -> Response:
    """Check that a grader is valid, without running it."""
    _, headers = await _checked(context, body)
    return json_response(GraderValidation(with_names(body.grader)), headers)


@router.post("/v1/fine_tuning/alpha/graders/run")
async def run_grader(request: Request, context: Context, body: Json[GraderRunRequest]) -> Response:
    """Grade one sample. Requests to grading models run behind clients' requests, like lines of batches."""
    context.drain.check()
    grader, headers = await _checked(context, body)
    return json_response(await until_disconnect(_graded(context, grader, body), request.receive), headers)


async def _checked(context: ServerContext, body: GraderValidateRequest) -> tuple[Grader, dict[str, str]]:
    """Parse and check a grader. Return it with the header that lists the ignored fields. Raises InvalidRequest."""
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
    usages: defaultdict[str, AnswerUsage] = defaultdict(AnswerUsage)
    for question, (_, usage) in zip(questions, answers, strict=True):
        usages[question.model].add(usage)
    known = {path: answer for path, (answer, _) in zip(paths, answers, strict=True)}
    grade = await context.workers.run_unless_short(lambda: grading.grade(known), size=size)
    return _grader_run(grader, grade, usages, time.monotonic() - start_s)


def _size(grader: Grader, body: GraderRunRequest) -> int:
    """Return the size of the text to grade, with the sample counted for each reference to it in a template."""
    num_repeats = sum(1 for _ in references(grader))
    return json_size(body.grader) + num_repeats * (len(body.model_sample) + json_size(body.item))


async def _scored(context: ServerContext, caller: Caller, question: ScoreQuestion) -> tuple[ScoreAnswer, AnswerUsage]:
    """Ask a grading model one question, at batch priority. Sets the task's priority, so call it in a new task."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            answer = await run_body(context, caller, ENDPOINT, chat_body(question))
    except TimeoutError:
        reason = f"the model did not answer within {_ANSWER_TIMEOUT_S:g} s; try again later"
        return unscored(reason), AnswerUsage()
    return read_chat_score(answer), answer.usage


def _grader_run(grader: Grader, grade: Grade, usages: Mapping[str, AnswerUsage], execution_time_s: float) -> GraderRun:
    """Return the response for a graded sample. usages: token usage, by the name of the grading model."""
    models = needed_models(grader)
    per_model = {name: _token_usage(usage) for name, usage in usages.items()}
    total = sum(usage.total_tokens for usage in per_model.values())
    return GraderRun(
        reward=grade.reward,
        metadata=GraderMetadata(
            name=grader.name,
            type=grader.type.value,
            errors=_errors(grade),
            execution_time=execution_time_s,
            scores=grade.sub_rewards,
            token_usage=total if models else None,
            sampled_model_name=models[0] if len(models) == 1 else None,
        ),
        sub_rewards=grade.sub_rewards,
        model_grader_token_usage_per_model=per_model,
    )


def _errors(grade: Grade) -> GraderErrors:
    faults = grade.faults
    details = next((fault.message for fault in faults if fault.kind is FaultKind.MODEL_SERVER), None)
    flags: dict[str, Any] = {fault.kind.value: True for fault in faults}
    return GraderErrors(**flags, model_grader_server_error_details=details)


def _token_usage(usage: AnswerUsage) -> ModelTokenUsage:
    return ModelTokenUsage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
