"""What is wrong with a training file, or with one of its lines."""

import msgspec


class LineFault(msgspec.Struct, frozen=True):
    """line: counted from 1; None is the file as a whole."""

    message: str
    line: int | None = None

    @property
    def text(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class FaultyLine(Exception):
    """A line that cannot be trained on. The message names the field, what it has and the remedy."""
