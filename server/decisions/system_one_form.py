"""Translation between the System One API and Decision.

A choice of one label, or a score of one level, is not asked: its answer is certain.
"""

from collections.abc import Iterator, Sequence

from msgspec import UNSET, UnsetType

from engine.errors import InvalidRequest
from server.decisions.computing import Decided
from server.decisions.decision import (
    Decision,
    Kind,
    LabelOption,
    Question,
    choice_confidence,
    mean_level,
    score_confidence,
)
from server.decisions.openai_form import answer_details
from server.schemas.decisions_answers import AnswerDetails
from server.schemas.system_one import NoulQuestion, SystemOneChoice, SystemOneQuestion, SystemOneRequest, content_text
from server.schemas.system_one_answers import (
    AnyAnswer,
    NoulAnswer,
    SystemOneAnswer,
    SystemOneChoiceAnswer,
    SystemOneScoreAnswer,
    SystemOneUsage,
)


def system_one_decision(body: SystemOneRequest, default_min_mass: float) -> Decision:
    """Return the body as a Decision. Raises InvalidRequest for a blank state, or a noul that asks nothing."""
    state = content_text(body.state)
    if not state.strip():
        raise InvalidRequest("state is empty; give a text to decide about", param="state")
    questions = [_question(name, question) for name, question in _open_questions(body)]
    min_mass = default_min_mass if body.min_mass is None else body.min_mass
    return Decision(state, questions, min_mass, body.permutations or 1, state_path="state")


def _open_questions(body: SystemOneRequest) -> Iterator[tuple[str, SystemOneQuestion]]:
    """Yield the questions that have more than one answer, by name."""
    for name, question in body.questions.items():
        if isinstance(question, NoulQuestion) or len(question.criteria) > 1:
            yield name, question


def _question(name: str, given: SystemOneQuestion) -> Question:
    path, location, instructions = f"questions.{name}", ("questions", name), content_text(given.instructions)
    match given:
        case NoulQuestion():
            outcomes = (None, None) if given.criteria is None else (given.criteria.true, given.criteria.false)
            yes, no = (content_text(outcome) for outcome in outcomes)
            if not any(text.strip() for text in (instructions, yes, no)):
                message = f"{path} asks nothing; give it instructions or criteria"
                raise InvalidRequest(message, param=path, location=location)
            options = [LabelOption("yes", yes), LabelOption("no", no)]
            return Question(Kind.PREDICATE, instructions, path, options, name, location=location)
        case SystemOneChoice():
            options = [
                LabelOption(label, content_text(description), ("criteria", label))
                for label, description in given.criteria.items()
            ]
            return Question(Kind.CHOICE, instructions, path, options, name, ".criteria.{value:.40}", location)
        case _:
            options = [
                LabelOption(content_text(level), location=("criteria", number))
                for number, level in enumerate(given.criteria)
            ]
            return Question(Kind.SCORE, instructions, path, options, name, ".criteria[{number}]", location)


def system_one_answer(body: SystemOneRequest, decision: Decision, decided: Decided, model_name: str) -> SystemOneAnswer:
    results = zip(decided.masses, decided.raw, strict=True)
    found = {question.name: each for question, each in zip(decision.questions, results, strict=True)}
    answers = {}
    for name, question in body.questions.items():
        if name not in found:
            answers[name] = _answer(question, [1.0], UNSET)
            continue
        masses, raw = found[name]
        if masses is not None:
            details = answer_details(raw) if body.details else UNSET
            answers[name] = _answer(question, masses.probabilities, details)
    return SystemOneAnswer(model=model_name, answers=answers, usage=SystemOneUsage(input_tokens=decided.num_tokens))


def _answer(
    question: SystemOneQuestion, probabilities: Sequence[float], details: AnswerDetails | UnsetType
) -> AnyAnswer:
    match question:
        case NoulQuestion():
            return NoulAnswer(noul=probabilities[0], details=details)
        case SystemOneChoice():
            by_label = dict(zip(question.criteria, probabilities, strict=True))
            return SystemOneChoiceAnswer(
                choice=max(by_label, key=by_label.__getitem__),
                confidence=choice_confidence(probabilities),
                probabilities=by_label,
                details=details,
            )
        case _:
            return SystemOneScoreAnswer(
                score=mean_level(probabilities),
                confidence=score_confidence(probabilities),
                legend={str(number): level for number, level in enumerate(question.criteria)},
                probabilities={str(number): each for number, each in enumerate(probabilities)},
                details=details,
            )
