"""Intake: requests of batches neither fill the clients' queue nor are told of as theirs."""

import pytest

from engine.client.open_streams import OpenStreams
from engine.client.queue.first_token import FirstToken
from engine.client.queue.intake import Intake
from engine.client.queue.queue_limit import QueueLimit
from engine.errors import QueueFull
from engine.protocol import FinishReason, RequestOutput, ScoredQuestion, ScoringRequest, ServiceClass, StepStats
from tests.helpers.engines import make_request
from tests.helpers.fake_client import engine_info

pytestmark = pytest.mark.fast

LIMIT, PLACES = 2, 3


class Door:
    """An intake with its streams, and what it told of first tokens."""

    def __init__(self, *, shares_prefixes: bool = True) -> None:
        self.streams = OpenStreams(on_discarded=lambda _: None)
        self.first_tokens: list[FirstToken] = []
        self.intake = Intake(
            self.streams,
            QueueLimit(LIMIT, 50),
            shares_prefixes=shares_prefixes,
            on_first_token=lambda predicted, _: self.first_tokens.append(predicted),
        )
        info = engine_info(max_num_seqs=PLACES, prefill_seconds_per_token=0.01, decode_step_s=0.01)
        self.intake.on_ready(info)

    def open(self, name: str, service_class: ServiceClass = ServiceClass.INTERACTIVE, length: int = 4) -> None:
        self.intake.open(make_request(name, [1] * length, service_class=service_class), None, lambda _: None)
        self.streams.check()


async def test_a_batch_leaves_the_clients_their_queue() -> None:
    door = Door()
    for number in range(100):
        door.open(f"line {number}", ServiceClass.BATCH, length=1000)
    assert door.intake.num_waiting == 0
    door.intake.check(LIMIT + PLACES, 40)
    with pytest.raises(QueueFull):
        door.intake.check(LIMIT + PLACES + 1, 1)
    door.intake.take_step((), StepStats(running_batch=PLACES, waiting_batch=97, batch_prefill_tokens=9))
    door.intake.check(LIMIT + PLACES, 40)


async def test_what_ends_of_a_batch_says_nothing_of_how_fast_the_clients_queue_drains() -> None:
    door = Door()
    door.open("client")
    for number in range(50):
        door.open(f"line {number}", ServiceClass.BATCH)
        door.intake.start([f"line {number}"])
        ended = RequestOutput(id=f"line {number}", new_ids=[5], finish_reason=FinishReason.LENGTH)
        door.intake.take_step([ended], StepStats(step_s=0.01, batch_decode_tokens=1))
        door.streams.check()
    assert not door.intake._queue._ends
    assert door.first_tokens == []


async def test_a_client_beside_a_batch_is_followed_as_ever() -> None:
    door = Door()
    door.open("line", ServiceClass.BATCH)
    door.open("client")
    assert (door.streams.num_batch, door.streams.num_clients, len(door.streams)) == (1, 1, 2)
    door.intake.start(["client"])
    ended = RequestOutput(id="client", new_ids=[5], finish_reason=FinishReason.LENGTH)
    door.intake.take_step([ended], StepStats(step_s=0.01, prefill_tokens=4))
    assert len(door.first_tokens) == 1
    assert len(door.intake._queue._ends) == 0  # it rests: no client has work
    assert (door.streams.num_batch, door.streams.num_clients) == (1, 0)


@pytest.mark.parametrize(("shares_prefixes", "num_tokens"), [(True, 13), (False, 33)])
async def test_without_a_prefix_cache_each_question_counts_with_its_state(
    shares_prefixes: bool, num_tokens: int
) -> None:
    door = Door(shares_prefixes=shares_prefixes)
    questions = [ScoredQuestion([number], [[(1,)], [(2,)]]) for number in range(3)]
    request = ScoringRequest(id="s", prompt_ids=[1] * 10, questions=questions, arrival_s=0.0)
    door.intake.open(request, request.num_tokens, lambda _: None)
    assert door.streams.backlog.num_tokens == num_tokens


async def test_between_two_engines_no_prediction_counts_on_what_the_first_one_ran() -> None:
    door, idle = Door(), Door()
    for each in (door, idle):
        each.open("a")
        each.open("b")
    door.streams.take_unsent()
    door.intake.start(["a", "b"])
    door.intake.take_step((), StepStats(running=2, pending_prompt_tokens=500))
    ran = door.intake.predict(4, ServiceClass.INTERACTIVE)
    assert [each.id for each in door.intake.engine_ended("it was killed")] == ["a", "b"]
    assert door.intake.predict(4, ServiceClass.INTERACTIVE) == idle.intake.predict(4, ServiceClass.INTERACTIVE) != ran
    assert door.intake.stats.running == 0
