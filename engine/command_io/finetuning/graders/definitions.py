"""Grader: the parsed form of OpenAI's graders, and the fields and models that a grader needs."""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.command_io.finetuning.graders.formula import Formula
from engine.command_io.finetuning.graders.similarity import Metric
from engine.command_io.finetuning.graders.templates import ITEM, SAMPLE, FieldReference, Template


class GraderType(enum.StrEnum):
    STRING_CHECK = "string_check"
    TEXT_SIMILARITY = "text_similarity"
    SCORE_MODEL = "score_model"
    MULTI = "multi"


class StringOperation(enum.StrEnum):
    """The comparison of a string check, whose reward is 1 or 0."""

    EQ = "eq"  # 1 if the input is the reference
    NE = "ne"  # 1 if it is not
    LIKE = "like"  # 1 if the input contains the reference
    ILIKE = "ilike"  # the same in any case


@dataclass(frozen=True, slots=True)
class StringCheck:
    name: str
    operation: StringOperation
    input: Template
    reference: Template
    type: GraderType = GraderType.STRING_CHECK


@dataclass(frozen=True, slots=True)
class TextSimilarity:
    name: str
    metric: Metric
    input: Template
    reference: Template
    type: GraderType = GraderType.TEXT_SIMILARITY


@dataclass(frozen=True, slots=True)
class ScoreSampling:
    """Sampling parameters of the grading model; None is the model's default."""

    max_completion_tokens: int | None = None
    reasoning_effort: str | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreMessage:
    role: str
    content: Template


@dataclass(frozen=True, slots=True)
class ScoreModel:
    """A grader that asks a model for a score. low, high: the range to which the score is clamped."""

    name: str
    model: str
    messages: tuple[ScoreMessage, ...]
    low: float = 0.0
    high: float = 1.0
    sampling: ScoreSampling = ScoreSampling()
    type: GraderType = GraderType.SCORE_MODEL


Single = StringCheck | TextSimilarity | ScoreModel


@dataclass(frozen=True, slots=True)
class Multi:
    """A grader that combines the rewards of single graders by a formula. graders: the single graders, by variable."""

    name: str
    graders: Mapping[str, Single]
    formula: Formula
    type: GraderType = GraderType.MULTI


Grader = Single | Multi


def singles(grader: Grader) -> dict[str, Single]:
    """Return the single graders by their paths: "graders.NAME" in a multi grader, else ""."""
    if not isinstance(grader, Multi):
        return {"": grader}
    return {f"graders.{name}": each for name, each in grader.graders.items()}


def needed_models(grader: Grader) -> list[str]:
    """Return the models that the grader asks, each once."""
    models = (each.model for each in singles(grader).values() if isinstance(each, ScoreModel))
    return list(dict.fromkeys(models))


def references(grader: Grader) -> Iterator[tuple[str, FieldReference]]:
    """Yield each reference to a field of the item or the sample, as (path of its template in the grader, reference)."""
    for path, each in singles(grader).items():
        start = f"{path}." if path else ""
        if isinstance(each, ScoreModel):
            fields = {f"input[{index}].content": message.content for index, message in enumerate(each.messages)}
        else:
            fields = {"input": each.input, "reference": each.reference}
        for name, template in fields.items():
            for reference in template.references:
                yield start + name, reference


def item_fields(grader: Grader) -> set[str]:
    """Return the names of all fields of an item that the grader reads, and that an item must therefore have."""
    return {reference.field for _, reference in references(grader) if reference.namespace == ITEM}


def sample_fields(grader: Grader) -> set[str]:
    """Return the fields of a sample that the grader reads, such as "output_text"."""
    return {reference.field for _, reference in references(grader) if reference.namespace == SAMPLE}
