"""Guard: a kind of model that was trained to moderate, and how it is asked about a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.moderations.categories import NOTHING, Category
from server.text.chat_templates.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True)
class GuardLabel:
    """An answer of a guard, however it is spelled, and the categories that it names."""

    spellings: Sequence[str]
    categories: frozenset[Category] = NOTHING


@dataclass(frozen=True, slots=True)
class GuardQuestion:
    """A prompt about a text. variables: of the chat template. opening: the text of the answer before the label."""

    variables: Mapping[str, Any]
    labels: Sequence[GuardLabel]
    opening: str = ""


class Guard(Protocol):
    """A kind of guard. wording: its name and the version of how it is asked, for headers."""

    wording: str

    def recognizes(self, template: ChatTemplate) -> bool:
        """Return whether the template is that of such a guard."""

    def questions(self, template: ChatTemplate) -> list[GuardQuestion]:
        """Return the questions to ask about a text, none if the template has no category that is known here."""


def yes_or_no(categories: frozenset[Category]) -> tuple[GuardLabel, GuardLabel]:
    """Return the labels of a question whose answer "yes" names the categories."""
    yes, no = ([lead + text for lead in ("", " ") for text in texts] for texts in (("Yes", "yes"), ("No", "no")))
    return GuardLabel(yes, categories), GuardLabel(no)
