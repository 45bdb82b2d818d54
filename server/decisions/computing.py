"""decide: computes the probabilities of one decision in the engine, and counts it."""

from dataclasses import dataclass

from server.decisions.decision import Decision
from server.decisions.metering import DecisionMeter
from server.decisions.prompt import DecisionPrompt
from server.decisions.rotations import averaged, unrolled
from server.decisions.scoring import EngineScorer
from server.decisions.walk import LabelMasses, walk
from server.generation.outcomes import metered
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


async def decide(model: ServedModel, decision: Decision, prompt: DecisionPrompt, terms: RequestTerms) -> Decided:
    """Compute a decision; one without questions costs nothing. Cancellation ends it. prompt: that of all rotations.

    Raises RateLimited, Shed or EngineUnavailable before anything is computed, and EngineDied, AnswerTimeout,
    QueueTimeout, RequestFailed and InvalidRequest after.
    """
    model.check_engine()  # a drain that started while the prompt was made waits for this request
    check_first_token(model, terms, prompt.num_tokens)
    if not decision.questions:
        return Decided([], [], 0, 0)
    meter = DecisionMeter(model.metrics, current_record(), current_caller().account, prompt, terms)
    scorer = EngineScorer(model, prompt, [question.path for question in unrolled(decision).questions], terms)
    with metered(model, meter):
        model.client.check_capacity(1, prompt.num_tokens, terms.service_class)
        async with terms.in_time():
            meter.begin(scorer.first_id)
            masses = await walk([question.trie for question in prompt.questions], scorer)
    meter.take(scorer.firsts, scorer.num_lookups)
    raw = averaged(decision, masses)
    return Decided(_judged(decision, raw, model.metrics), raw, prompt.num_tokens, meter.num_cached_tokens)


def _judged(decision: Decision, masses: list[LabelMasses], metrics: Metrics) -> list[LabelMasses | None]:
    """Return the masses, None where the labels are too unlikely, and count both."""
    judged: list[LabelMasses | None] = []
    for question, each in zip(decision.questions, masses, strict=True):
        is_refused = each.mass == 0 or each.mass < decision.min_mass
        metrics.observe("decision_label_mass", each.mass)
        metrics.add("decision_answers_total", 1, question.kind.value, "refusal" if is_refused else "answer")
        judged.append(None if is_refused else each)
    return judged
