"""LineMemory: refuses input whose lines need more memory than there is, and names the number that fits."""

from dataclasses import dataclass

LINE_BYTES = 330  # of a kept line besides its JSON: measured, as are the next two
NEAR_BYTES = 1150  # of a text among the near duplicates: its bands, and its set of words
_MIB = 1 << 20
_EVERY = 1024  # lines from one estimate of the whole to the next
_MOST_BY_ESTIMATE = 1.5  # of the limit: an estimate from the first lines may be wrong


class TooManyLines(Exception):
    """Lines that need more memory than there is. num_lines: how many lines fit."""

    def __init__(self, num_lines: int, message: str) -> None:
        super().__init__(message)
        self.num_lines = num_lines


@dataclass(slots=True)
class LineMemory:
    """Memory that kept lines may take. input_bytes: size of all input. The lines so far say whether all fit."""

    limit_bytes: int
    input_bytes: int
    num_lines: int = 0
    read_bytes: int = 0
    held_bytes: int = 0

    def add(self, line_bytes: int, held_bytes: int) -> None:
        """Count a line of the input, and what is kept of it. Raises TooManyLines."""
        self.num_lines += 1
        self.read_bytes += line_bytes
        self.held_bytes += held_bytes
        is_over = self.held_bytes > self.limit_bytes
        if self.num_lines % _EVERY == 0 and not is_over:
            whole = self.held_bytes * max(1, self.input_bytes / self.read_bytes)
            is_over = whole > _MOST_BY_ESTIMATE * self.limit_bytes
        if is_over:
            num_fit = self.num_lines * self.limit_bytes // self.held_bytes
            raise TooManyLines(
                num_fit,
                f"the lines need more memory than the {self.limit_bytes // _MIB:,} MiB that they may take: so far they "
                f"take {self.held_bytes // self.num_lines:,} bytes each, so about {num_fit:,} lines fit; prepare them "
                "in parts",
            )
