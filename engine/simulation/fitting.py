"""fit_times: MeasuredTimes from measured prefills and decode steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.simulation.costs import MeasuredTimes, interpolate


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """The seconds of one prefill, or of one decode step, by parts. Its rows are the prompt's tokens, or one for each
    sequence."""

    num_rows: int
    num_sequences: int
    rows_s: float  # parts that grow with the rows
    sequences_s: float  # parts that grow with the sequences
    attention_s: float
    attention_bytes: float
    attention_flops: float


def fit_times(prefills: Sequence[MeasuredStep], decodes: Sequence[MeasuredStep]) -> MeasuredTimes:
    """Return times that the measured steps determine. prefills, decodes: at least one each, in order of rows.

    A long prefill determines the time of an operation of attention, and the largest decode step that of a byte.
    """
    longest, largest = prefills[-1], decodes[-1]
    flop_s = longest.attention_s / longest.attention_flops if longest.attention_flops else 0.0
    bytes_s = max(0.0, largest.attention_s - largest.attention_flops * flop_s)
    sequences_s = tuple((each.num_sequences, each.sequences_s) for each in decodes)
    rows = {each.num_rows: each.rows_s for each in decodes}
    for each in prefills:
        rest_s = each.sequences_s - interpolate(sequences_s, each.num_sequences)  # grows with the rows of a prompt
        rows[each.num_rows] = max(0.0, each.rows_s + rest_s)
    return MeasuredTimes(
        rows_s=tuple(sorted(rows.items())),
        sequences_s=sequences_s,
        kv_byte_s=bytes_s / largest.attention_bytes if largest.attention_bytes else 0.0,
        attention_flop_s=flop_s,
    )
