"""Faults in training files and their lines."""

import msgspec


class FileFault(msgspec.Struct, frozen=True):
    """One fault in a training file. line: counted from 1; None for the file as a whole."""

    message: str
    line: int | None = None

    @property
    def text(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class InvalidLine(Exception):
    """A line that cannot be trained on. The message names the field, its value and the remedy."""
