"""Grader: one of OpenAI's graders, checked; and what it needs of items, samples and models."""

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
    """Of a string check: 1 if the input ..., else 0."""

    EQ = "eq"  # is the reference
    NE = "ne"  # is not the reference
    LIKE = "like"  # contains the reference
    ILIKE = "ilike"  # contains it, whatever the case


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
    """How the model that grades answers; None is as that model does by default."""

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
    """low, high: of the number that the model answers with; one outside is set to the nearer of them."""

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
    """graders: by the names that the formula has for their rewards."""

    name: str
    graders: Mapping[str, Single]
    formula: Formula
    type: GraderType = GraderType.MULTI


Grader = Single | Multi


def singles(grader: Grader) -> dict[str, Single]:
    """By their places in the grader: "" is the grader itself, "graders.NAME" one of several."""
    if not isinstance(grader, Multi):
        return {"": grader}
    return {f"graders.{name}": each for name, each in grader.graders.items()}


def needed_models(grader: Grader) -> list[str]:
    """The models that it asks, each once."""
    asked = (each.model for each in singles(grader).values() if isinstance(each, ScoreModel))
    return list(dict.fromkeys(asked))


def references(grader: Grader) -> Iterator[tuple[str, FieldReference]]:
    """All templates of item and sample, with the paths of the fields that have them."""
    for place, each in singles(grader).items():
        start = f"{place}." if place else ""
        if isinstance(each, ScoreModel):
            fields = {f"input[{index}].content": message.content for index, message in enumerate(each.messages)}
        else:
            fields = {"input": each.input, "reference": each.reference}
        for name, template in fields.items():
            for reference in template.references:
                yield start + name, reference


def item_fields(grader: Grader) -> set[str]:
    """The fields that an item must have; nothing else of it is looked at."""
    return {reference.field for _, reference in references(grader) if reference.namespace == ITEM}


def sample_fields(grader: Grader) -> set[str]:
    """What it looks at of a sample, such as "output_text"."""
    return {reference.field for _, reference in references(grader) if reference.namespace == SAMPLE}
