"""TrainingItems and GradedPrompts: tokenized examples, written before a job starts and read by the trainer."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.command_io.finetuning.job import write_parts_atomically


class Passage(msgspec.Struct, frozen=True):
    """A text as token ids. trained: spans [first, last) of the tokens that the loss covers, none in a prompt."""

    ids: list[int]
    trained: list[tuple[int, int]] = []

    @property
    def num_trained(self) -> int:
        return sum(last - first for first, last in self.trained)


class SamplePrompt(msgspec.Struct, frozen=True):
    """A prompt that the adapter answers during training. question: text of its last message, "" if it is unknown."""

    ids: list[int]
    question: str = ""


class TrainingItem(msgspec.Struct, frozen=True):
    """An example. passages: one text; for DPO, the preferred and the rejected text. line: the example's line number in
    the user's file."""

    passages: list[Passage]
    line: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(passage.ids) for passage in self.passages)

    @property
    def num_trained(self) -> int:
        return sum(passage.num_trained for passage in self.passages)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest passage."""
        return max(len(passage.ids) for passage in self.passages)


class GradedPrompt(msgspec.Struct, frozen=True):
    """A prompt for reinforcement learning. item: fields that the grader reads. line: the prompt's line number in the
    user's file."""

    ids: list[int]
    item: dict[str, Any] = {}
    line: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def longest(self) -> int:
        return len(self.ids)


Row = TypeVar("Row", Passage, SamplePrompt, TrainingItem, GradedPrompt)


def write_rows(path: Path, rows: Iterable[Passage | SamplePrompt | TrainingItem | GradedPrompt]) -> None:
    """Write rows as JSON lines, atomically. Raises OSError."""
    encode = msgspec.json.Encoder().encode
    write_parts_atomically(path, (encode(row) + b"\n" for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read the rows of a file; none if there is no such file."""
    if not path.exists():
        return []
    return msgspec.json.Decoder(kind).decode_lines(path.read_bytes())
