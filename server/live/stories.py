"""SequenceStory: the timed events of one sequence in the engine, in bounded memory."""

import enum
import itertools

import msgspec

from engine.client.interface import EngineEnd
from engine.protocol.sequence_events import (
    Admitted,
    Computed,
    Ended,
    Paused,
    Preempted,
    Queued,
    Resumed,
    SequenceEvent,
    Waits,
)

MAX_MOMENTS = 64  # of a sequence


class MomentKind(enum.StrEnum):
    """Kinds of events in a sequence's life. A kind's comment names the fields of Moment that it uses, besides at_s."""

    QUEUED = "queued"  # num_running, num_waiting, num_tokens: of output that a previous engine generated
    WAITS = "waits"  # reason: a WaitReason; is_shared: other tenants hold room that it cannot claim
    ADMITTED = "admitted"  # num_tokens: found in the prefix cache
    COMPUTED = "computed"  # num_steps, step_s, num_tokens: of the prompt, or computed again; num_left
    PREEMPTED = "preempted"  # reason: a PreemptionReason, or "out_of_memory"; num_tokens: lost
    PAUSED = "paused"
    RESUMED = "resumed"  # num_steps: pauses that ended, more than one if they were merged; step_s: their time together
    ENGINE_ENDED = "engine_ended"  # reason: a RestartReason; cause
    ENDED = "ended"  # reason: a FinishReason; num_steps: of decoding; num_drafted, num_accepted


class Moment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event in the life of a sequence."""

    what: MomentKind
    at_s: float  # end of the event by time.monotonic(); in answers, from the request's arrival
    reason: str = ""
    cause: str = ""  # for people
    num_tokens: int = 0
    num_left: int = 0
    num_steps: int = 0
    step_s: float = 0.0  # duration of the event's engine steps together
    num_running: int = 0
    num_waiting: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    is_shared: bool = False


class SequenceStory:
    """Events of one sequence. Invariant: at most MAX_MOMENTS. If there are more, consecutive chunks of the prompt are
    merged, then the first pauses, and then events in the middle are left out."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.num_left_out = 0
        self.admitted_s: float | None = None  # time of the first admission
        self.waits_again_s: float | None = None  # since when it waits, after a preemption or the end of an engine
        self.prompt_end_s: float | None = None  # time at which the prompt was first computed, and so the first token

    def add(self, event: SequenceEvent, step_s: float) -> None:
        """Add an event. step_s: duration of the engine step in which it happened."""
        if isinstance(event, Resumed) and self.moments:
            step_s = event.at_s - self.moments[-1].at_s  # the pause
        self._add(_moment(event, step_s))

    def engine_ended(self, at_s: float, end: EngineEnd) -> None:
        self._add(Moment(what=MomentKind.ENGINE_ENDED, at_s=at_s, reason=end.reason.value, cause=end.cause))

    @property
    def has_ended(self) -> bool:
        return bool(self.moments) and self.moments[-1].what is MomentKind.ENDED

    def pauses(self) -> list[tuple[float, float | None]]:
        """Return the begin and the end of each pause, in order; the last one may have no end yet."""
        found: list[tuple[float, float | None]] = []
        for moment, after in itertools.zip_longest(self.moments, self.moments[1:]):
            if moment.what is MomentKind.PAUSED:
                found.append((moment.at_s, None if after is None else _pause_end(moment, after)))
        return found

    def _note(self, moment: Moment) -> None:
        """Keep what must stay known after the moment is left out or merged."""
        match moment.what:
            case MomentKind.ADMITTED:
                self.waits_again_s = None
                if self.admitted_s is None:
                    self.admitted_s = moment.at_s
            case MomentKind.ENDED:
                self.waits_again_s = None
            case MomentKind.PREEMPTED | MomentKind.ENGINE_ENDED if self.waits_again_s is None:
                self.waits_again_s = moment.at_s
            case MomentKind.COMPUTED if self.prompt_end_s is None and not moment.num_left:
                self.prompt_end_s = moment.at_s

    def _add(self, moment: Moment) -> None:
        self._note(moment)
        self.moments.append(moment)
        if len(self.moments) > MAX_MOMENTS:
            self.moments = _merged(self.moments)
        if len(self.moments) > MAX_MOMENTS:
            self.moments = _with_fewer_pauses(self.moments)
        if len(self.moments) > MAX_MOMENTS:
            del self.moments[MAX_MOMENTS // 2]
            self.num_left_out += 1


def _moment(event: SequenceEvent, step_s: float) -> Moment:
    match event:
        case Queued():
            return Moment(
                what=MomentKind.QUEUED,
                at_s=event.at_s,
                num_tokens=event.num_resumed,
                num_running=event.num_running,
                num_waiting=event.num_waiting,
            )
        case Waits():
            return Moment(what=MomentKind.WAITS, at_s=event.at_s, reason=event.reason.value, is_shared=event.is_shared)
        case Admitted():
            return Moment(what=MomentKind.ADMITTED, at_s=event.at_s, num_tokens=event.num_cached)
        case Computed():
            return Moment(
                what=MomentKind.COMPUTED,
                at_s=event.at_s,
                num_tokens=event.num_tokens,
                num_left=event.num_left,
                num_steps=1,
                step_s=step_s,
            )
        case Preempted():
            return Moment(what=MomentKind.PREEMPTED, at_s=event.at_s, reason=event.reason, num_tokens=event.num_lost)
        case Paused():
            return Moment(what=MomentKind.PAUSED, at_s=event.at_s)
        case Resumed():
            return Moment(what=MomentKind.RESUMED, at_s=event.at_s, num_steps=1, step_s=step_s)
        case Ended():
            return Moment(
                what=MomentKind.ENDED,
                at_s=event.at_s,
                reason=event.reason,
                num_steps=event.num_decode_steps,
                num_drafted=event.num_drafted,
                num_accepted=event.num_accepted,
            )


def _merged(moments: list[Moment]) -> list[Moment]:
    """Merge consecutive chunks of the prompt in pairs."""
    merged: list[Moment] = []
    can_merge = False  # with the last moment of `merged`
    for moment in moments:
        if can_merge and moment.what is MomentKind.COMPUTED:
            merged[-1] = _joined(merged[-1], moment)
            can_merge = False
        else:
            merged.append(moment)
            can_merge = moment.what is MomentKind.COMPUTED
    return merged


def _joined(first: Moment, second: Moment) -> Moment:
    return msgspec.structs.replace(
        second,
        num_tokens=first.num_tokens + second.num_tokens,
        num_steps=first.num_steps + second.num_steps,
        step_s=first.step_s + second.step_s,
    )


_TWO_PAUSES = [MomentKind.PAUSED, MomentKind.RESUMED] * 2


def _with_fewer_pauses(moments: list[Moment]) -> list[Moment]:
    """Merge the first two pauses that follow each other."""
    for index in range(len(moments) - 3):
        first, _, _, last = four = moments[index : index + 4]
        if [each.what for each in four] == _TWO_PAUSES:
            return [*moments[:index], first, _joined(four[1], last), *moments[index + 4 :]]
    return moments


def _pause_end(paused: Moment, after: Moment) -> float:
    """Return the end of a pause. Merged ones are shown as one of their length, from the first one's begin."""
    return paused.at_s + after.step_s if after.what is MomentKind.RESUMED else after.at_s
