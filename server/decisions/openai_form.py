"""Translation between OpenAI's decisions API and Decision."""

import itertools
from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from engine.errors import InvalidRequest
from engine.protocol import LabelMasses
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
from server.schemas.base import quote
from server.schemas.decisions import (
    ChoiceQuestion,
    DecisionItem,
    DecisionQuestion,
    DecisionRequest,
    InputCall,
    InputCallOutput,
    InputCustomCall,
    InputMessage,
    InputPiece,
    Piece,
    PredicateQuestion,
    ScaleQuestion,
    TextPiece,
)
from server.schemas.decisions_answers import (
    Answer,
    AnswerDetails,
    ChoiceAnswer,
    DecisionAnswer,
    DecisionInputDetails,
    DecisionUsage,
    LevelProbability,
    PredicateAnswer,
    RefusalAnswer,
    ScaleAnswer,
    ValueProbability,
)

_MAX_BREAKPOINTS = 4  # the last ones, as in OpenAI's API: for each, its prefix is tokenized, and more may stay cached
_GAP = "\n\n"  # between items


def decision_of(body: DecisionRequest, default_min_mass: float) -> Decision:
    """Return the body as a Decision. Raises InvalidRequest for a blank input or statement, or an output without its
    call."""
    questions = [_question(question, f"questions[{index}]") for index, question in enumerate(body.questions)]
    min_mass = default_min_mass if body.min_mass is None else body.min_mass
    state, breakpoints = _state(body.input)
    return Decision(state, questions, min_mass, body.permutations or 1, breakpoints=breakpoints[-_MAX_BREAKPOINTS:])


def _state(items: Sequence[DecisionItem]) -> tuple[str, list[int]]:
    """Return the items as one text, and the places in it that are marked as breakpoints: a single message of the user
    as it is, else each item with its speaker."""
    _check_calls(items)
    is_alone = len(items) == 1 and isinstance(items[0], InputMessage) and items[0].role == "user"
    texts: list[str] = []
    breakpoints: list[int] = []
    num_characters = 0
    for item in items:
        begin, pieces = _written(item)
        begin = "" if is_alone else f"{_GAP if texts else ''}{begin}: "
        num_before = num_characters + len(begin)
        texts.append(begin + _text(pieces))
        num_characters += len(texts[-1])
        ends = itertools.accumulate(len(piece.written) + 1 for piece in pieces)
        breakpoints += [num_before + end - 1 for piece, end in zip(pieces, ends, strict=True) if _is_breakpoint(piece)]
    state = "".join(texts)
    if not state.strip():
        raise InvalidRequest("input is empty; give a text to decide about", param="input")
    return state, breakpoints


def _is_breakpoint(piece: Piece) -> bool:
    return isinstance(piece, InputPiece) and piece.prompt_cache_breakpoint is not None


def _written(item: DecisionItem) -> tuple[str, Sequence[Piece]]:
    """Return the speaker of an item, and its text."""
    match item:
        case InputMessage():
            return item.role, item.content
        case InputCall():
            return f"assistant calls {item.name}", [TextPiece(type="output_text", text=item.arguments)]
        case InputCustomCall():
            return f"assistant calls {item.name}", [TextPiece(type="output_text", text=item.input)]
        case InputCallOutput():
            return "output of the call", item.output


def _check_calls(items: Sequence[DecisionItem]) -> None:
    """Raise InvalidRequest for an output whose call, of the same kind, is not before it."""
    calls: dict[str, str] = {}
    for index, item in enumerate(items):
        if isinstance(item, InputCall | InputCustomCall):
            calls[item.call_id] = f"{item.type}_output"
        elif isinstance(item, InputCallOutput) and calls.get(item.call_id) != item.type:
            raise InvalidRequest(
                f"input[{index}].call_id is {quote(item.call_id)}, which is not the id of a "
                f"{item.type.removesuffix('_output')} before it; give the call too",
                param=f"input[{index}].call_id",
            )


def _text(pieces: Sequence[Piece]) -> str:
    return "\n".join(piece.written for piece in pieces)


def _question(given: DecisionQuestion, path: str) -> Question:
    instructions = _text(given.instructions or ())
    match given:
        case PredicateQuestion():
            if not instructions.strip():
                raise InvalidRequest(
                    f"{path}.instructions is empty; a predicate needs a statement", param=f"{path}.instructions"
                )
            return Question(Kind.PREDICATE, instructions, path, name=given.name)
        case ChoiceQuestion():
            options = [LabelOption(choice.value, choice.description) for choice in given.choices]
            return Question(Kind.CHOICE, instructions, path, options, given.name, ".choices[{number}].value")
        case ScaleQuestion():
            levels = [LabelOption(level.label, level.description) for level in given.levels]
            return Question(Kind.SCORE, instructions, path, levels, given.name, ".levels[{number}].label")


def answer_of(body: DecisionRequest, decision: Decision, decided: Decided, model_name: str) -> DecisionAnswer:
    details = [answer_details(raw) if body.details else UNSET for raw in decided.raw]
    answers = [_answer(*each) for each in zip(decision.questions, decided.masses, details, strict=True)]
    num_tokens = decided.num_tokens
    input_details = DecisionInputDetails(decided.num_cached_tokens, decided.num_written_tokens)
    usage = DecisionUsage(input_tokens=num_tokens, input_tokens_details=input_details, total_tokens=num_tokens)
    return DecisionAnswer(model=model_name, answers=answers, usage=usage)


def answer_details(raw: LabelMasses) -> AnswerDetails:
    return AnswerDetails(mass=raw.mass, raw_probabilities=[each * raw.mass for each in raw.probabilities])


def _answer(question: Question, masses: LabelMasses | None, details: AnswerDetails | UnsetType) -> Answer:
    name = question.name
    if masses is None:
        return RefusalAnswer(name=name, details=details)
    probabilities = masses.probabilities
    if question.kind is Kind.PREDICATE:
        return PredicateAnswer(name=name, details=details, probability=probabilities[0])
    pairs = list(zip(question.options, probabilities, strict=True))
    if question.kind is Kind.CHOICE:
        best, _ = max(pairs, key=lambda pair: pair[1])
        return ChoiceAnswer(
            name=name,
            details=details,
            choice=best.value,
            confidence=choice_confidence(probabilities),
            probabilities=[ValueProbability(option.value, each) for option, each in pairs],
        )
    return ScaleAnswer(
        name=name,
        details=details,
        score=mean_level(probabilities),
        confidence=score_confidence(probabilities),
        probabilities=[LevelProbability(str(level.value), number, each) for number, (level, each) in enumerate(pairs)],
    )
