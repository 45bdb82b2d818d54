"""Decision: a text and questions about it, whichever protocol they come from, and the numbers of its answers."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequest

Location = tuple[int | str, ...]


class Kind(enum.StrEnum):
    """Kind of a question."""

    PREDICATE = "predicate"  # whether a statement is true
    CHOICE = "choice"  # one of several options
    SCORE = "score"  # a level of an ordered scale


@dataclass(frozen=True, slots=True)
class LabelOption:
    """An option of a choice, or a level of a scale. location: its keys and indices below the question's."""

    value: str | bool
    description: str | None = None
    location: Location = ()

    @property
    def text(self) -> str:
        """Value as the model reads it: a bool in JSON's spelling, a string with single spaces between its words."""
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        return " ".join(self.value.split())


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    path: its place in the request, for errors. options: none for a statement; yes and no for a predicate that may be a
    question too; else two or more, the lowest level first. option_path: the place of an option below `path`, with
    {number} or {value}. location: the keys and indices of `path`, which may be joined in it in several ways; None if
    the protocol does not need them.
    """

    kind: Kind
    instructions: str
    path: str
    options: Sequence[LabelOption] = ()
    name: str | None = None
    option_path: str = ""
    location: Location | None = None

    def fault(self, message: str, number: int | None = None) -> InvalidRequest:
        """Return the error for the question, or for its option with this number. message: begins behind its path."""
        at = self.path if number is None else self.path_of(number)
        location = self.location
        if location is not None and number is not None and self.options:
            location += self.options[number].location
        return InvalidRequest(f"{at} {message}", param=at, location=location)

    def path_of(self, number: int) -> str:
        """Return the place of an option in the request."""
        if not self.options:
            return self.path
        return self.path + self.option_path.format(number=number, value=self.options[number].value)

    @property
    def num_characters(self) -> int:
        return len(self.instructions) + sum(
            2 * len(option.text) + len(option.description or "") for option in self.options
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """Questions about one state.

    min_mass: the least probability that a question's labels must have together; below it the question is refused.
    permutations: how many rotations of a choice's options are averaged. state_path: the state's place in the request.
    breakpoints: numbers of the state's first characters with which other requests are likely to begin too.
    """

    state: str
    questions: Sequence[Question]
    min_mass: float
    permutations: int = 1
    state_path: str = "input"
    breakpoints: Sequence[int] = ()

    @property
    def num_characters(self) -> int:
        """Approximate number of characters to tokenize."""
        return len(self.state) + sum(question.num_characters for question in self.questions)


def choice_confidence(probabilities: Sequence[float]) -> float:
    """Return how far the likeliest option is above an even split: 0 for equal probabilities, 1 for certainty."""
    num = len(probabilities)
    if num == 1:
        return 1.0
    return max(0.0, (num * max(probabilities) - 1) / (num - 1))


def mean_level(probabilities: Sequence[float]) -> float:
    """Return the mean of the levels, which count from 0."""
    return sum(level * each for level, each in enumerate(probabilities))


def score_confidence(probabilities: Sequence[float]) -> float:
    """Return how closely the levels lie around the likeliest one: 1 for certainty, 0 for a spread as wide as that of
    equal probabilities around the middle, or wider."""
    num = len(probabilities)
    if num == 1:
        return 1.0
    mode = max(range(num), key=probabilities.__getitem__)
    spread = sum(abs(level - mode) * each for level, each in enumerate(probabilities))
    even = sum(abs(level - (num - 1) / 2) for level in range(num)) / num
    return max(0.0, 1 - spread / even)
