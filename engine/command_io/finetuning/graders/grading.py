"""Grading: the reward of a sample. A sample that cannot be graded has the reward 0 and a fault; nothing is raised."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

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
from engine.command_io.finetuning.graders.similarity import similarity

_LARGEST = 1e300
_RESULT = "result"  # the field that OpenAI's graders answer with
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?!\w)")


@dataclass(frozen=True, slots=True)
class ScoreQuestion:
    """A question that a grading model answers with a score from low to high. messages: in OpenAI's chat format."""

    model: str
    messages: list[dict[str, str]]
    low: float
    high: float
    sampling: ScoreSampling


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """A model's answer: its text, or a fault."""

    text: str = ""
    fault: GradingFault | None = None


AskAll = Callable[[Sequence[ScoreQuestion]], Sequence[ScoreAnswer]]  # an answer for each, in their order


@dataclass(frozen=True, slots=True)
class PartGrade:
    """The grade by one grader. name: the grader's name. key: its variable in the formula; empty outside a formula."""

    key: str
    name: str
    type: GraderType
    reward: float
    fault: GradingFault | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of a sample. parts: the grades by the graders that a multi grader combines, in order."""

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
    """The grading of one sample. questions: the questions that grading models must answer before `grade`, by the path
    of the grader that asks."""

    grader: Grader
    item: Mapping[str, Any]
    sample: Sample
    questions: dict[str, ScoreQuestion] = field(init=False)
    _faults: dict[str, GradingFault] = field(init=False)  # of questions that cannot be built

    def __post_init__(self) -> None:
        self.questions, self._faults = {}, {}
        for path, each in singles(self.grader).items():
            if isinstance(each, ScoreModel):
                try:
                    self.questions[path] = self._question(each)
                except Ungradable as error:
                    self._faults[path] = error.fault

    def grade(self, answers: Mapping[str, ScoreAnswer]) -> Grade:
        """Return the grade. answers: the grading models' answers, by the paths of `questions`."""
        parts = [self._part(path, each, answers) for path, each in singles(self.grader).items()]
        if not isinstance(self.grader, Multi):
            return Grade(parts[0])
        name, grader_type = self.grader.name, self.grader.type
        try:
            reward = self.grader.formula.value({each.key: each.reward for each in parts})
            return Grade(PartGrade("", name, grader_type, reward), tuple(parts))
        except Ungradable as error:
            return Grade(PartGrade("", name, grader_type, 0.0, error.fault), tuple(parts))

    def _part(self, path: str, grader: Single, answers: Mapping[str, ScoreAnswer]) -> PartGrade:
        key = path.partition(".")[2]
        try:
            return PartGrade(key, grader.name, grader.type, self._reward(path, grader, answers))
        except Ungradable as error:
            return PartGrade(key, grader.name, grader.type, 0.0, error.fault)

    def _reward(self, path: str, grader: Single, answers: Mapping[str, ScoreAnswer]) -> float:
        """Compute the reward of a single grader. Raises Ungradable, such as for a missing field."""
        match grader:
            case StringCheck(operation=operation):
                return float(_matches(operation, *self._texts(grader)))
            case TextSimilarity(metric=metric):
                return similarity(metric, *self._texts(grader))
            case ScoreModel():
                if (fault := self._faults.get(path)) is not None:
                    raise Ungradable(fault.kind, fault.message)
                return _score(grader, answers[path])

    def _texts(self, grader: StringCheck | TextSimilarity) -> tuple[str, str]:
        return grader.input.rendered(self.item, self.sample), grader.reference.rendered(self.item, self.sample)

    def _question(self, grader: ScoreModel) -> ScoreQuestion:
        messages = [
            {"role": each.role, "content": each.content.rendered(self.item, self.sample)} for each in grader.messages
        ]
        return ScoreQuestion(grader.model, messages, grader.low, grader.high, grader.sampling)


def grade_all(grader: Grader, pairs: Sequence[tuple[Mapping[str, Any], Sample]], ask_all: AskAll) -> list[Grade]:
    """Grade pairs of an item and a sample, in order. ask_all: called once, with the questions of all pairs."""
    gradings = [Grading(grader, item, sample) for item, sample in pairs]
    keys = [(index, path) for index, each in enumerate(gradings) for path in each.questions]
    questions = [gradings[index].questions[path] for index, path in keys]
    answers: list[dict[str, ScoreAnswer]] = [{} for _ in gradings]
    for (index, path), answer in zip(keys, ask_all(questions) if questions else (), strict=True):
        answers[index][path] = answer
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


def read_score(text: str) -> float | None:
    """Return `result` of a JSON object, or else the only number in the text; None if there is neither."""
    value = _json(text)
    if isinstance(value, dict):
        return _number(value.get(_RESULT))
    found = _NUMBER.findall(text)
    if len(found) != 1:
        return None
    number = float(found[0])
    return number if math.isfinite(number) else None


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text.strip().encode())
    except (ValueError, RecursionError):
        return None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > _LARGEST:
        return None
    return float(value)
