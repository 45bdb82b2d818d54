"""RequestStory: the history of one request for the server's operator, without prompt and answer."""

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from engine.client.interface import EngineEnd
from engine.protocol import StepStats
from server.live.requests import LiveRequest
from server.live.stories import Moment, SequenceStory
from server.metrics.request_record import RequestRecord

MAX_CHOICES = 4  # in a story


class ChoiceStory(msgspec.Struct, frozen=True):
    """Events of one choice in the engine, in order. Times are in seconds from the request's arrival."""

    moments: list[Moment]
    num_left_out: int  # moments left out, in the middle


class RequestStory(msgspec.Struct, frozen=True):
    """The history of a request."""

    request: LiveRequest
    response_id: str | None  # the id in the answer
    key: str | None  # the name of the client's key
    model: str | None  # None if the request was refused before its model was known
    is_stream: bool
    num_choices: int
    choices: list[ChoiceStory]  # the first MAX_CHOICES; empty if the request did not reach the engine
    saved_s: float | None = None  # prefill time saved by cached tokens, at the speed of the warm-up


class SequenceStories:
    """Histories of followed sequences, by the engine's sequence ids. Events of other sequences are ignored."""

    def __init__(self) -> None:
        self._stories: dict[str, SequenceStory] = {}

    def __len__(self) -> int:
        return len(self._stories)

    def follow(self, record: RequestRecord) -> None:
        """Start the histories of a request's sequences, which the engine has just received."""
        for sequence_id in followed_sequences(record):
            self._stories.setdefault(sequence_id, SequenceStory())

    def forget(self, sequence_ids: Iterable[str]) -> None:
        for sequence_id in sequence_ids:
            self._stories.pop(sequence_id, None)

    def add_step(self, stats: StepStats) -> None:
        """Add the events of an engine step."""
        for event in stats.events:
            if (story := self._stories.get(event.id)) is not None:
                story.add(event, stats.step_s)

    def engine_ended(self, at_s: float, end: EngineEnd, sequence_ids: Iterable[str]) -> None:
        """Record that the engine process ended, in the histories of the given sequences that have not ended."""
        for sequence_id in sequence_ids:
            story = self._stories.get(sequence_id)
            if story is not None and not story.has_ended:
                story.engine_ended(at_s, end)

    def find(self, sequence_ids: Sequence[str]) -> SequenceStory | None:
        """Return the history of a request's first choice, if it is followed."""
        return self._stories.get(sequence_ids[0]) if sequence_ids else None

    def choices(self, sequence_ids: Iterable[str], arrival_s: float) -> list[ChoiceStory]:
        """Return the histories of a request's choices. arrival_s: the request's arrival by time.monotonic()."""
        stories = [story for each in sequence_ids if (story := self._stories.get(each)) is not None]
        return [_choice(story, arrival_s) for story in stories]


def story_without_choices(record: RequestRecord, request: LiveRequest) -> RequestStory:
    """Return a request's story, with `choices` left empty. The record is not kept."""
    return RequestStory(
        request=request,
        response_id=record.response_id,
        key=record.key_name,
        model=record.model_name,
        is_stream=record.is_stream,
        num_choices=record.num_choices,
        choices=[],
        saved_s=request.cached_tokens * record.prefill_token_s or None,
    )


def followed_sequences(record: RequestRecord) -> list[str]:
    """Return the engine's ids of the request's sequences that get a history: its first choices."""
    return list(itertools.islice(record.sequence_ids, MAX_CHOICES))


def _choice(story: SequenceStory, arrival_s: float) -> ChoiceStory:
    moments = [msgspec.structs.replace(each, at_s=round(each.at_s - arrival_s, 6)) for each in story.moments]
    return ChoiceStory(moments, story.num_left_out)
