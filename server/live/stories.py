"""SequenceStory: what the engine did with one sequence and when, gathered from its events within a bound of memory."""

import enum

import msgspec

from engine.client.interface import RestartReason
from engine.protocol.sequence_events import Admitted, Computed, Ended, Preempted, Queued, SequenceEvent, Waits

MAX_MOMENTS = 64  # of a sequence


class What(enum.StrEnum):
    """What a moment was. With each, the fields that it has beside its time."""

    QUEUED = "queued"  # num_running, num_waiting, num_tokens: of its output, that an engine before had generated
    WAITS = "waits"  # reason: a WaitReason; is_shared: others have room that it cannot claim
    ADMITTED = "admitted"  # num_tokens: that the prefix cache had
    COMPUTED = "computed"  # num_steps, step_s, num_tokens: of the prompt, or lost before; num_left
    PREEMPTED = "preempted"  # reason: a PreemptionReason, or "out_of_memory"; num_tokens: lost
    ENGINE_ENDED = "engine_ended"  # reason: a RestartReason
    ENDED = "ended"  # reason: a FinishReason; num_steps: that decoded; num_drafted, num_accepted


class Moment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened to a sequence."""

    what: What
    at_s: float  # its end: by time.monotonic(), and in answers since the request's arrival
    reason: str = ""
    num_tokens: int = 0
    num_left: int = 0
    num_steps: int = 0
    step_s: float = 0.0  # of all the steps
    num_running: int = 0
    num_waiting: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    is_shared: bool = False


class SequenceStory:
    """Invariant: at most MAX_MOMENTS. Where more come, chunks that follow one another become one; where there are none,
    the middle is left out."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.num_left_out = 0

    def take(self, event: SequenceEvent, step_s: float) -> None:
        """step_s: that the step took."""
        self._add(_moment(event, step_s))

    def engine_ended(self, at_s: float, reason: RestartReason) -> None:
        self._add(Moment(what=What.ENGINE_ENDED, at_s=at_s, reason=reason.value))

    @property
    def has_ended(self) -> bool:
        return bool(self.moments) and self.moments[-1].what is What.ENDED

    def _add(self, moment: Moment) -> None:
        self.moments.append(moment)
        if len(self.moments) > MAX_MOMENTS:
            self.moments = _merged(self.moments)
        if len(self.moments) > MAX_MOMENTS:
            del self.moments[MAX_MOMENTS // 2]
            self.num_left_out += 1


def _moment(event: SequenceEvent, step_s: float) -> Moment:
    match event:
        case Queued():
            return Moment(
                what=What.QUEUED,
                at_s=event.at_s,
                num_tokens=event.num_resumed,
                num_running=event.num_running,
                num_waiting=event.num_waiting,
            )
        case Waits():
            return Moment(what=What.WAITS, at_s=event.at_s, reason=event.reason.value, is_shared=event.is_shared)
        case Admitted():
            return Moment(what=What.ADMITTED, at_s=event.at_s, num_tokens=event.num_cached)
        case Computed():
            return Moment(
                what=What.COMPUTED,
                at_s=event.at_s,
                num_tokens=event.num_tokens,
                num_left=event.num_left,
                num_steps=1,
                step_s=step_s,
            )
        case Preempted():
            return Moment(what=What.PREEMPTED, at_s=event.at_s, reason=event.reason, num_tokens=event.num_lost)
        case Ended():
            return Moment(
                what=What.ENDED,
                at_s=event.at_s,
                reason=event.reason,
                num_steps=event.num_decode_steps,
                num_drafted=event.num_drafted,
                num_accepted=event.num_accepted,
            )


def _merged(moments: list[Moment]) -> list[Moment]:
    """Chunks that follow one another, two and two."""
    merged: list[Moment] = []
    can_merge = False  # with the last one
    for moment in moments:
        if can_merge and moment.what is What.COMPUTED:
            merged[-1] = _both(merged[-1], moment)
            can_merge = False
        else:
            merged.append(moment)
            can_merge = moment.what is What.COMPUTED
    return merged


def _both(first: Moment, second: Moment) -> Moment:
    return Moment(
        what=What.COMPUTED,
        at_s=second.at_s,
        num_tokens=first.num_tokens + second.num_tokens,
        num_left=second.num_left,
        num_steps=first.num_steps + second.num_steps,
        step_s=first.step_s + second.step_s,
    )
