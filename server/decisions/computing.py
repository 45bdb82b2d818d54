"""decide: computes the probabilities of one decision in the engine, and counts it."""

import uuid
from dataclasses import dataclass

from engine.errors import InvalidRequest
from engine.protocol import AbortReason, FinishReason, LabelMasses, RequestOutput, ScoringRequest
from server.decisions.decision import Decision
from server.decisions.metering import DecisionMeter, count_end
from server.decisions.prompt import DecisionPrompt
from server.decisions.rotations import averaged, unrolled
from server.generation.outcomes import failure_of, metered
from server.generation.slo import check_first_token
from server.generation.terms import RequestTerms
from server.keys.caller import current_caller
from server.metrics.request_record import current_record
from server.metrics.values import Metrics
from server.served.model import ServedModel


@dataclass(frozen=True, slots=True)
class Decided:
    """Probabilities of each question's labels; None for a question that is refused. raw: the same of all questions, as
    they were computed."""

    masses: list[LabelMasses | None]
    raw: list[LabelMasses]
    num_tokens: int
    num_cached_tokens: int
    num_written_tokens: int  # to the prefix cache


async def decide(
    model: ServedModel,
    decision: Decision,
    prompt: DecisionPrompt,
    terms: RequestTerms,
    *,
    is_first: bool = True,
    is_whole: bool = True,
) -> Decided:
    """Compute a decision; one without questions costs nothing. Cancellation ends it. prompt: with all rotations.

    is_first: False if another decision of the same request came before. is_whole: False if the request may have more
    decisions; its caller then counts its end, if this decision does not fail.

    Raises RateLimited, Shed or EngineUnavailable before anything is computed, and EngineDied, AnswerTimeout,
    QueueTimeout, RequestFailed and InvalidRequest after.
    """
    model.check_engine()  # a drain that started while the prompt was made waits for this request
    num_new_tokens = prompt.num_tokens if model.engine.enable_prefix_caching else prompt.num_tokens_apart
    if is_first:
        check_first_token(model, terms, num_new_tokens)
    if not decision.questions:
        return Decided([], [], 0, 0, 0)
    account, num_questions = current_caller().account, len(decision.questions)
    meter = DecisionMeter(
        model.metrics, current_record(), account, prompt, terms, num_questions=num_questions, is_first=is_first
    )
    with metered(model, meter):
        if is_first:
            model.client.check_capacity(1, num_new_tokens, terms.service_class)
        async with terms.in_time():
            output = await _scored(model, decision, prompt, terms, meter)
    meter.take(output)
    if is_whole:
        count_end(model.metrics, meter.record, terms)
    assert output.scores is not None
    raw = averaged(decision, output.scores)
    masses = _judged(decision, raw, model.metrics)
    return Decided(masses, raw, prompt.num_tokens, output.num_cached_tokens, output.num_written_tokens)


async def _scored(
    model: ServedModel, decision: Decision, prompt: DecisionPrompt, terms: RequestTerms, meter: DecisionMeter
) -> RequestOutput:
    """Return the engine's output with the scores of all questions."""
    request = ScoringRequest(
        id=uuid.uuid4().hex,
        prompt_ids=prompt.state_ids,
        questions=prompt.questions,
        branch_points=prompt.branch_points,
        **terms.engine_fields(is_first=True),
        cache_salt=terms.cache_salt,
    )
    meter.begin(request.id)
    stream = model.submit(request, num_new_tokens=prompt.num_tokens)
    try:
        async for output in stream:
            if output.finish_reason is FinishReason.STOP:
                return output
            if output.finish_reason is not None:
                number = output.failed_question
                question = None if number is None else unrolled(decision).questions[number]
                error = failure_of(output, "questions" if question is None else question.path, terms, model)
                if isinstance(error, InvalidRequest) and question is not None and error.param == question.path:
                    error.location = question.location
                raise error
    finally:
        stream.abort(AbortReason.CLIENT_GONE)  # no effect on a stream that has ended
    raise AssertionError("a stream ended without a terminal output")


def _judged(decision: Decision, masses: list[LabelMasses], metrics: Metrics) -> list[LabelMasses | None]:
    """Return the masses, None where the labels are too unlikely, and count both."""
    judged: list[LabelMasses | None] = []
    for question, each in zip(decision.questions, masses, strict=True):
        is_refused = each.mass == 0 or each.mass < decision.min_mass
        metrics.observe("decision_label_mass", each.mass)
        metrics.add("decision_answers_total", 1, question.kind.value, "refusal" if is_refused else "answer")
        judged.append(None if is_refused else each)
    return judged
