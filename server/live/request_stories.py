"""RequestStory: one request from its arrival on, as whoever runs the server may see it: never what it says."""

import itertools
from collections.abc import Iterable

import msgspec

from engine.client.interface import RestartReason
from engine.protocol import StepStats
from server.live.requests import LiveRequest
from server.live.stories import Moment, SequenceStory
from server.metrics.request_record import RequestRecord

MAX_CHOICES_TOLD = 4  # of a request


class ChoiceStory(msgspec.Struct, frozen=True):
    """What the engine did with one choice, in order. Times are in seconds since the request's arrival."""

    moments: list[Moment]
    num_left_out: int  # of the moments, in their middle


class RequestStory(msgspec.Struct, frozen=True):
    """The record of a request."""

    request: LiveRequest
    response_id: str | None  # by which its answer calls itself
    key: str | None  # the name of its key
    model: str | None  # None of one that was refused before it was known which model it asks
    is_stream: bool
    num_choices: int
    choices: list[ChoiceStory]  # the first MAX_CHOICES_TOLD; none of a request that did not come to the engine
    saved_s: float | None = None  # that its cached tokens would have taken, at the speed of the warm-up


class Stories:
    """What became of sequences, by the engine's ids of them. Events of others are dropped."""

    def __init__(self) -> None:
        self._stories: dict[str, SequenceStory] = {}

    def __len__(self) -> int:
        return len(self._stories)

    def begin(self, record: RequestRecord) -> None:
        """Follow the sequences of a request, which the engine has just got."""
        for sequence_id in _followed(record):
            self._stories.setdefault(sequence_id, SequenceStory())

    def forget(self, sequence_ids: Iterable[str]) -> None:
        for sequence_id in sequence_ids:
            self._stories.pop(sequence_id, None)

    def take(self, stats: StepStats) -> None:
        """What a step did."""
        for event in stats.events:
            if (story := self._stories.get(event.id)) is not None:
                story.take(event, stats.step_s)

    def engine_ended(self, at_s: float, reason: RestartReason, sequence_ids: Iterable[str]) -> None:
        """It ended under those of these sequences that had not ended."""
        for sequence_id in sequence_ids:
            story = self._stories.get(sequence_id)
            if story is not None and not story.has_ended:
                story.engine_ended(at_s, reason)

    def tell(self, request: LiveRequest, facts: "RequestFacts") -> RequestStory:
        stories = [story for name in facts.sequence_ids if (story := self._stories.get(name)) is not None]
        return RequestStory(
            request=request,
            response_id=facts.response_id,
            key=facts.key,
            model=facts.model,
            is_stream=facts.is_stream,
            num_choices=facts.num_choices,
            choices=[_choice(story, facts.arrival_s) for story in stories],
            saved_s=request.cached_tokens * facts.prefill_token_s or None,
        )


class RequestFacts(msgspec.Struct, frozen=True):
    """What a story has of a request's record, which is not kept itself."""

    response_id: str | None
    key: str | None
    model: str | None
    is_stream: bool
    num_choices: int
    arrival_s: float  # time.monotonic()
    sequence_ids: list[str]
    prefill_token_s: float  # at the speed of the warm-up; 0 is unknown


def facts_of(record: RequestRecord) -> RequestFacts:
    return RequestFacts(
        response_id=record.response_id,
        key=record.key_name,
        model=record.model_name,
        is_stream=record.is_stream,
        num_choices=record.num_choices,
        arrival_s=record.arrival_s,
        sequence_ids=_followed(record),
        prefill_token_s=record.prefill_token_s,
    )


def _followed(record: RequestRecord) -> list[str]:
    return list(itertools.islice(record.sequence_ids, MAX_CHOICES_TOLD))


def _choice(story: SequenceStory, arrival_s: float) -> ChoiceStory:
    moments = [msgspec.structs.replace(each, at_s=round(each.at_s - arrival_s, 6)) for each in story.moments]
    return ChoiceStory(moments, story.num_left_out)
