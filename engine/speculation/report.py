"""SpecReport: what speculation did in a step and has brought lately, as StepStats tells it."""

from dataclasses import dataclass, field
from typing import Any

_MEMORY = 0.98  # of the realized speed-up, from step to step


@dataclass(slots=True)
class _Step:
    """Of one step; names as in StepStats."""

    num_drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: list[int] = field(default_factory=list)
    draft_length: float | None = None
    estimated_speedup: float | None = None
    realized_speedup: float | None = None


class SpecReport:
    """Filled while a step goes on, between two calls of `begin_step`."""

    def __init__(self) -> None:
        self._step = _Step()
        self._plain_s = self._real_s = 0.0  # of the last steps, fading

    def begin_step(self) -> None:
        self._step = _Step()

    def foresee(self, speedup: float) -> None:
        self._step.estimated_speedup = speedup

    def count_draft(self, num_drafted: int, num_accepted: int) -> None:
        """A verified draft. num_accepted: those of its tokens that the text has."""
        step = self._step
        step.num_drafts += 1
        step.draft_tokens += num_drafted
        step.accepted_tokens += num_accepted
        step.accepted_by_position += [0] * (num_accepted - len(step.accepted_by_position))
        for place in range(num_accepted):
            step.accepted_by_position[place] += 1

    def take_decoding(
        self,
        num_sequences: int,
        num_emitted: int,
        *,
        has_drafts: bool,
        plain_s: float,
        step_s: float,
        drafting_s: float,
    ) -> None:
        """A step in which all sequences decode. plain_s: what such a step takes without drafts, as far as is known;
        where it had none itself, its own time says that."""
        if not has_drafts:
            plain_s = step_s
        real_s = step_s + drafting_s
        self._plain_s = self._plain_s * _MEMORY + plain_s * num_emitted / num_sequences
        self._real_s = self._real_s * _MEMORY + real_s
        self._step.realized_speedup = self._plain_s / max(1e-9, self._real_s)
        self._step.draft_length = self._step.draft_tokens / num_sequences

    def stats(self) -> dict[str, Any]:
        """Fields of StepStats."""
        return {name: getattr(self._step, name) for name in _Step.__slots__}
