"""rows_of: the rows of logits of sequences as they are now, without a plan."""

from engine.sampling.rows import LogitsRow, row_of
from engine.scheduling.sequence import Sequence


def rows_of(*sequences: Sequence) -> list[LogitsRow]:
    """For each sequence a row for each token of its draft, and one more."""
    return [
        row_of(sequence, len(sequence.tokens), num_drafted)
        for sequence in sequences
        for num_drafted in range(len(sequence.draft) + 1)
    ]
