"""Category: OpenAI's categories of harmful content, how the labels of a prompt name them, and their scores."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocol import LabelMasses
from server.decisions.decision import Decision
from server.decisions.prompt import DecisionPrompt


class Category(enum.StrEnum):
    """A category of content under its name in OpenAI's API."""

    HARASSMENT = "harassment"
    HARASSMENT_THREATENING = "harassment/threatening"
    HATE = "hate"
    HATE_THREATENING = "hate/threatening"
    ILLICIT = "illicit"
    ILLICIT_VIOLENT = "illicit/violent"
    SELF_HARM = "self-harm"
    SELF_HARM_INSTRUCTIONS = "self-harm/instructions"
    SELF_HARM_INTENT = "self-harm/intent"
    SEXUAL = "sexual"
    SEXUAL_MINORS = "sexual/minors"
    VIOLENCE = "violence"
    VIOLENCE_GRAPHIC = "violence/graphic"


NOTHING: frozenset[Category] = frozenset()  # the categories of a label that finds the text harmless

# The categories that each label of one question names
Findings = Sequence[frozenset[Category]]


@dataclass(frozen=True, slots=True)
class ModerationPrompt:
    """One text's decision. findings: of each question. wording: the name of the questions' wording."""

    decision: Decision
    prompt: DecisionPrompt
    findings: Sequence[Findings]
    wording: str


def category_scores_of(findings: Sequence[Findings], masses: Sequence[LabelMasses]) -> dict[Category, float]:
    """Return the score of each category that a question has a label for: the probability of the labels that name it, or
    the highest one if several questions do.

    findings and masses: of the questions, in the same order.
    """
    scores: dict[Category, float] = {}
    for labels, each in zip(findings, masses, strict=True):
        for category in sorted(frozenset[Category]().union(*labels)):
            pairs = zip(labels, each.probabilities, strict=True)
            score = min(1.0, sum(probability for named, probability in pairs if category in named))
            scores[category] = max(score, scores.get(category, 0.0))
    return scores
