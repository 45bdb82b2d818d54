"""TrainingItems: examples as token ids, as the side that knows text hands them to the trainer."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.jobs.finetune.job import write_parts_atomically


class Passage(msgspec.Struct, frozen=True):
    """trained: [first, last) of the tokens that are learned, each predicted from all before it; none in a prompt."""

    ids: list[int]
    trained: list[tuple[int, int]] = []

    @property
    def num_trained(self) -> int:
        return sum(last - first for first, last in self.trained)


class TrainingItem(msgspec.Struct, frozen=True):
    """passages: one to learn; or, of a preference, the one that is preferred and the other. line: in the file."""

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
        """Tokens of its longest passage."""
        return max(len(passage.ids) for passage in self.passages)


Row = TypeVar("Row", Passage, TrainingItem)


def write_rows(path: Path, rows: Iterable[Passage] | Iterable[TrainingItem]) -> None:
    """Raises OSError."""
    encode = msgspec.json.Encoder().encode
    write_parts_atomically(path, (encode(row) + b"\n" for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Empty if there is no such file."""
    if not path.exists():
        return []
    return msgspec.json.Decoder(kind).decode_lines(path.read_bytes())
