"""SpeculationReport: the drafts of a step and the recent gain from drafting, as fields of StepStats."""

from dataclasses import dataclass, field
from typing import Any

_DECAY = 0.98  # of the times in the realized speed-up, from step to step


@dataclass(slots=True)
class _Step:
    """Statistics of one step, named as in StepStats."""

    num_drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: list[int] = field(default_factory=list)
    draft_length: float | None = None
    estimated_speedup: float | None = None
    realized_speedup: float | None = None


class SpeculationReport:
    """Statistics of the drafts since `begin_step`; the realized speed-up covers several recent steps."""

    def __init__(self) -> None:
        self._step = _Step()
        self._plain_s = self._real_s = 0.0  # of the last steps, decaying

    def begin_step(self) -> None:
        self._step = _Step()

    def set_estimate(self, speedup: float) -> None:
        self._step.estimated_speedup = speedup

    def count_draft(self, num_drafted: int, num_accepted: int) -> None:
        """Count a verified draft. num_accepted: draft tokens that were appended to the sequence."""
        step = self._step
        step.num_drafts += 1
        step.draft_tokens += num_drafted
        step.accepted_tokens += num_accepted
        step.accepted_by_position += [0] * (num_accepted - len(step.accepted_by_position))
        for position in range(num_accepted):
            step.accepted_by_position[position] += 1

    def count_decoding_step(
        self,
        num_sequences: int,
        num_emitted: int,
        *,
        has_drafts: bool,
        plain_s: float,
        step_s: float,
        drafting_s: float,
    ) -> None:
        """Count a step in which all sequences decode. plain_s: estimated time of such a step without drafts; ignored if
        this step has no drafts."""
        if not has_drafts:
            plain_s = step_s
        real_s = step_s + drafting_s
        self._plain_s = self._plain_s * _DECAY + plain_s * num_emitted / num_sequences
        self._real_s = self._real_s * _DECAY + real_s
        self._step.realized_speedup = self._plain_s / max(1e-9, self._real_s)
        self._step.draft_length = self._step.draft_tokens / num_sequences

    def stats(self) -> dict[str, Any]:
        return {name: getattr(self._step, name) for name in _Step.__slots__}
