"""grade: the reward of a sample. A sample that cannot be graded has the reward 0 and a fault, and raises nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.command_io.finetuning.graders.definitions import (
    Grader,
    GraderType,
    Multi,
    ScoreModel,
    ScoreSampling,
    Single,
    StringCheck,
    StringOperation,
    TextSimilarity,
    singles,
)
from engine.command_io.finetuning.graders.faults import FaultKind, GradingFault, Ungradable
from engine.command_io.finetuning.graders.sample import Sample
from engine.command_io.finetuning.graders.scores import read_score
from engine.command_io.finetuning.graders.similarity import similarity


@dataclass(frozen=True, slots=True)
class ScoreQuestion:
    """What a model is asked, to answer with a number from low to high. messages: of OpenAI's chats."""

    model: str
    messages: list[dict[str, str]]
    low: float
    high: float
    sampling: ScoreSampling


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """text: what the model said, unless there is a fault."""

    text: str = ""
    fault: GradingFault | None = None


Ask = Callable[[ScoreQuestion], ScoreAnswer]
AskAll = Callable[[Sequence[ScoreQuestion]], Sequence[ScoreAnswer]]  # an answer for each, in their order


@dataclass(frozen=True, slots=True)
class PartGrade:
    """By one grader. name: its own; key: by which the formula of several calls it, and empty for the whole."""

    key: str
    name: str
    type: GraderType
    reward: float
    fault: GradingFault | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    """whole: by the grader itself. parts: by those that a multi grader combines, in their order."""

    whole: PartGrade
    parts: tuple[PartGrade, ...] = ()

    @property
    def reward(self) -> float:
        return self.whole.reward

    @property
    def faults(self) -> list[GradingFault]:
        return [each.fault for each in (self.whole, *self.parts) if each.fault is not None]

    @property
    def sub_rewards(self) -> dict[str, float]:
        return {each.key: each.reward for each in self.parts}


@dataclass(slots=True)
class Grading:
    """One sample that is graded: `questions` must be answered first, by their places in the grader."""

    grader: Grader
    item: Mapping[str, Any]
    sample: Sample
    questions: dict[str, ScoreQuestion] = field(init=False)
    _faults: dict[str, GradingFault] = field(init=False)  # of questions that cannot be asked

    def __post_init__(self) -> None:
        self.questions, self._faults = {}, {}
        for place, each in singles(self.grader).items():
            if isinstance(each, ScoreModel):
                try:
                    self.questions[place] = self._question(each)
                except Ungradable as error:
                    self._faults[place] = error.fault

    def grade(self, answers: Mapping[str, ScoreAnswer]) -> Grade:
        """answers: to the questions."""
        parts = [self._part(place, each, answers) for place, each in singles(self.grader).items()]
        if not isinstance(self.grader, Multi):
            return Grade(parts[0])
        name, grader_type = self.grader.name, self.grader.type
        try:
            reward = self.grader.formula.value({each.key: each.reward for each in parts})
            return Grade(PartGrade("", name, grader_type, reward), tuple(parts))
        except Ungradable as error:
            return Grade(PartGrade("", name, grader_type, 0.0, error.fault), tuple(parts))

    def _part(self, place: str, grader: Single, answers: Mapping[str, ScoreAnswer]) -> PartGrade:
        key = place.partition(".")[2]
        try:
            return PartGrade(key, grader.name, grader.type, self._reward(place, grader, answers))
        except Ungradable as error:
            return PartGrade(key, grader.name, grader.type, 0.0, error.fault)

    def _reward(self, place: str, grader: Single, answers: Mapping[str, ScoreAnswer]) -> float:
        """Raises Ungradable."""
        match grader:
            case StringCheck(operation=operation):
                return float(_matches(operation, *self._texts(grader)))
            case TextSimilarity(metric=metric):
                return similarity(metric, *self._texts(grader))
            case ScoreModel():
                if (fault := self._faults.get(place)) is not None:
                    raise Ungradable(fault.kind, fault.message)
                return _score(grader, answers[place])

    def _texts(self, grader: StringCheck | TextSimilarity) -> tuple[str, str]:
        return grader.input.rendered(self.item, self.sample), grader.reference.rendered(self.item, self.sample)

    def _question(self, grader: ScoreModel) -> ScoreQuestion:
        messages = [
            {"role": each.role, "content": each.content.rendered(self.item, self.sample)} for each in grader.messages
        ]
        return ScoreQuestion(grader.model, messages, grader.low, grader.high, grader.sampling)


def grade(grader: Grader, item: Mapping[str, Any], sample: Sample, ask: Ask) -> Grade:
    grading = Grading(grader, item, sample)
    return grading.grade({place: ask(question) for place, question in grading.questions.items()})


def grade_all(grader: Grader, pairs: Sequence[tuple[Mapping[str, Any], Sample]], ask_all: AskAll) -> list[Grade]:
    """The grades of samples with their items, in their order; `ask_all` is given all questions together."""
    gradings = [Grading(grader, item, sample) for item, sample in pairs]
    asked = [(index, place) for index, each in enumerate(gradings) for place in each.questions]
    questions = [gradings[index].questions[place] for index, place in asked]
    answers: list[dict[str, ScoreAnswer]] = [{} for _ in gradings]
    for (index, place), answer in zip(asked, ask_all(questions) if questions else (), strict=True):
        answers[index][place] = answer
    return [grading.grade(known) for grading, known in zip(gradings, answers, strict=True)]


def _matches(operation: StringOperation, text: str, reference: str) -> bool:
    match operation:
        case StringOperation.EQ:
            return text == reference
        case StringOperation.NE:
            return text != reference
        case StringOperation.LIKE:
            return reference in text
        case StringOperation.ILIKE:
            return reference.casefold() in text.casefold()


def _score(grader: ScoreModel, answer: ScoreAnswer) -> float:
    if answer.fault is not None:
        raise Ungradable(answer.fault.kind, answer.fault.message)
    score = read_score(answer.text)
    if score is None:
        raise Ungradable(FaultKind.MODEL_PARSE, f"{grader.model} answered no number")
    return min(max(score, grader.low), grader.high)
