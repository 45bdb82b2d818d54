"""OpenStreams over engines that come and go: every request ends once, and each engine goes on where the last ended."""

import asyncio

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.client.open_streams import MAX_DEATHS, OpenStreams
from engine.client.output_stream import OutputStream
from engine.errors import EngineDied
from engine.protocol import (
    AbortReason,
    EngineRequest,
    FinishReason,
    RequestOutput,
    Resumption,
    SamplingParams,
    ScoredQuestion,
    ScoringRequest,
)
from engine.protocol.sampling_params import MirostatParams
from tests.helpers.deadline import DEADLINE_S

pytestmark = pytest.mark.fast

_INDEX = st.integers(0, 10**6)


async def _drain(stream: OutputStream) -> tuple[list[int], FinishReason | None]:
    """All that a stream has, whose end must be there already."""
    ids: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        async for output in stream:
            ids += output.new_ids
            if output.finish_reason is not None:
                return ids, output.finish_reason
    return ids, None


class Engines(RuleBasedStateMachine):
    """A model of the client and of one engine at a time. Each token is the number of the engine that made it."""

    @initialize()
    def begin(self) -> None:
        self.streams = OpenStreams(on_discarded=self._discard)
        self.made: dict[str, OutputStream] = {}
        self.deadlines: dict[str, float | None] = {}
        self.engine: dict[str, str] | None = {}  # what it was sent: "waiting" or "running"; None is no engine
        self.epoch = 0
        self.tokens: dict[str, list[int]] = {}  # delivered in the run that counts
        self.started_in: dict[str, int] = {}  # the last engine
        self.deaths: dict[str, int] = {}
        self.ended: dict[str, str] = {}  # how
        self.seeds: dict[str, int | None] = {}
        self.fixed: set[str] = set()  # cannot go on in another engine once they have a token
        self.aborted: set[str] = set()  # perhaps after their end
        self.now = 0.0
        self.discarded = 0

    def _discard(self, num_tokens: int) -> None:
        self.discarded += num_tokens

    def _send(self) -> None:
        if self.engine is not None:
            requests = self.streams.take_unsent()
            sent = [request.id for request in requests]
            for request in requests:
                assert isinstance(request, EngineRequest)
                resumed = [] if request.resumption is None else request.resumption.output_ids
                assert resumed == self.tokens[request.id], "the engine is not told what the stream has had"
                assert request.drawn_seed == self.seeds.setdefault(request.id, request.drawn_seed)
                assert request.drawn_seed is not None
            assert sent == sorted(sent, key=int), "not in the order in which they came"
            assert not self.engine.keys() & sent, "sent twice"
            self.engine.update(dict.fromkeys(sent, "waiting"))

    @rule(deadline=st.none() | st.floats(0.0, 20.0), has_mirostat=st.booleans())
    def submit(self, deadline: float | None, has_mirostat: bool) -> None:
        name = str(len(self.made))
        deadline_s = None if deadline is None else self.now + deadline
        mirostat = MirostatParams(version=2, tau=5.0, eta=0.1) if has_mirostat else None
        sampling = SamplingParams(max_tokens=9, mirostat=mirostat)
        request = EngineRequest(id=name, prompt_ids=[1], sampling=sampling, arrival_s=0.0, deadline_s=deadline_s)
        if has_mirostat:
            self.fixed.add(name)
        self.made[name] = self.streams.open(request, num_new_tokens=1, on_abort=lambda _: self._on_abort(name))
        self.deadlines[name] = deadline_s
        self.tokens[name], self.deaths[name] = [], 0
        self._send()

    def _on_abort(self, name: str) -> None:
        if self.streams.drop_unsent(name):
            assert self.engine is None
        elif name in self.streams and self.engine is not None:
            self.engine[name] = "aborted"

    @precondition(lambda self: self.made)
    @rule(index=_INDEX)
    def abort(self, index: int) -> None:
        name = str(index % len(self.made))
        self.made[name].abort(AbortReason.CLIENT_GONE)
        self.ended.setdefault(name, "aborted")
        self.aborted.add(name)

    @precondition(lambda self: self.engine)
    @rule(index=_INDEX)
    def start(self, index: int) -> None:
        assert self.engine
        name = sorted(self.engine)[index % len(self.engine)]
        if self.engine[name] == "waiting":
            self.engine[name] = "running"
            self.started_in[name] = self.epoch
            self.streams.start([name, "a replay"])

    @precondition(lambda self: self.engine)
    @rule(index=_INDEX, is_last=st.booleans(), has_token=st.booleans())
    def output(self, index: int, is_last: bool, has_token: bool) -> None:
        assert self.engine
        name = sorted(self.engine)[index % len(self.engine)]
        if self.engine[name] == "waiting":
            return
        if self.engine[name] == "aborted":
            is_last, reason = True, FinishReason.ABORT
        else:
            reason = FinishReason.LENGTH
        new_ids = [self.epoch] if has_token else []
        self.streams.deliver(RequestOutput(id=name, new_ids=new_ids, finish_reason=reason if is_last else None))
        self.tokens[name] += new_ids
        if is_last:
            del self.engine[name]
            self.ended.setdefault(name, "finished")

    @precondition(lambda self: self.engine is not None)
    @rule()
    def crash(self) -> None:
        assert self.engine is not None
        sent, self.engine = self.engine, None
        started = [name for name in sent if self.started_in.get(name) == self.epoch]
        for name in started or sent:
            self.deaths[name] += 1
        kept = [request.id for request in self.streams.engine_ended("the engine ended")]
        for name in sent:
            can_go_on = not self.tokens[name] or name not in self.fixed
            is_kept = name not in self.ended and can_go_on and self.deaths[name] < MAX_DEATHS
            assert is_kept == (name in kept)
            if not is_kept:
                self.ended.setdefault(name, "failed")

    @precondition(lambda self: self.engine is None)
    @rule()
    def restart(self) -> None:
        self.engine, self.epoch = {}, self.epoch + 1
        self._send()

    @rule(seconds=st.floats(0.0, 10.0))
    def wait(self, seconds: float) -> None:
        """The engine heeds the deadlines of what it was sent; here that is left out."""
        self.now += seconds
        before = set(self.made) - self.ended.keys()
        self.streams.expire_unsent(self.now)
        for name in before:
            if name not in self.streams:
                assert self.engine is None
                deadline_s = self.deadlines[name]
                assert deadline_s is not None
                assert deadline_s <= self.now
                self.ended[name] = "timeout"

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every request is open, or has ended; what no engine has will be sent, and waits."""
        self.streams.check()
        for name in self.made:
            is_open = name in self.streams
            assert is_open or name in self.ended
            assert not (is_open and self.ended.get(name) in ("finished", "failed", "timeout"))
        assert len(self.streams) == sum(name in self.streams for name in self.made)

    def teardown(self) -> None:
        """Whoever reads now gets the outputs of all engines in order, and the end that the request had."""
        asyncio.run(self._read_ends())

    async def _read_ends(self) -> None:
        self.streams.fail_all(lambda: EngineDied("for good"))
        for name, stream in self.made.items():
            if name in self.aborted and self.ended[name] != "failed":
                assert await _drain(stream) == ([], None)
                continue
            how = self.ended.get(name, "failed")
            try:
                ids, reason = await _drain(stream)
            except EngineDied:
                assert how == "failed"
                continue
            assert ids == self.tokens[name]
            assert reason is {"finished": FinishReason.LENGTH, "timeout": FinishReason.TIMEOUT}[how]


Engines.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEngines = Engines.TestCase


def _request(name: str) -> EngineRequest:
    return EngineRequest(id=name, prompt_ids=[1], sampling=SamplingParams(max_tokens=9), arrival_s=0.0)


def _streams(*names: str) -> OpenStreams:
    """Requests that were sent to an engine."""
    streams = OpenStreams(on_discarded=lambda _: None)
    for name in names:
        streams.open(_request(name), num_new_tokens=7, on_abort=lambda _: None)
    streams.take_unsent()
    return streams


def test_what_two_engines_died_of_is_not_run_a_third_time() -> None:
    streams = _streams("cause", "waiting")
    for _ in range(MAX_DEATHS - 1):
        streams.start(["cause"])
        assert [request.id for request in streams.engine_ended("it ended")] == ["cause", "waiting"]
        streams.take_unsent()
    streams.start(["cause"])
    assert [request.id for request in streams.engine_ended("it ended")] == ["waiting"]


@pytest.mark.parametrize(
    ("mirostat", "num_deaths"), [(None, MAX_DEATHS), (MirostatParams(version=2, tau=5.0, eta=0.1), 1)]
)
def test_an_error_says_how_many_engines_ended_while_they_computed_its_request(
    mirostat: MirostatParams | None, num_deaths: int
) -> None:
    """With Mirostat no other engine can go on."""
    streams = OpenStreams(on_discarded=lambda _: None)
    request = _request("a")
    request = msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, mirostat=mirostat))
    stream = streams.open(request, num_new_tokens=1, on_abort=lambda _: None)
    for _ in range(num_deaths):
        streams.take_unsent()
        streams.start(["a"])
        streams.deliver(RequestOutput(id="a", new_ids=[1]))
        streams.engine_ended("it ended")
    with pytest.raises(EngineDied) as raised:
        asyncio.run(_drain(stream))
    assert raised.value.num_deaths == num_deaths


def test_an_engine_that_dies_before_it_starts_any_may_have_died_of_each() -> None:
    streams = _streams("a", "b")
    for _ in range(MAX_DEATHS - 1):
        streams.engine_ended("it ended")
        streams.take_unsent()
    assert streams.engine_ended("it ended") == []


def test_requests_that_the_dead_engine_never_got_are_no_suspects() -> None:
    streams = _streams("cause")
    streams.start(["cause"])
    streams.engine_ended("it ended")
    for _ in range(MAX_DEATHS):  # the next ones die while they load
        assert [request.id for request in streams.engine_ended("it ended")] == ["cause"]


def test_what_waits_too_long_for_the_next_engine_ends_as_it_would_in_the_queue() -> None:
    streams = OpenStreams(on_discarded=lambda _: None)
    requests = [
        msgspec.structs.replace(_request("late"), deadline_s=1.0, start_by_s=1.0),
        msgspec.structs.replace(_request("waiting"), start_by_s=2.0),
        _request("patient"),
    ]
    made = [streams.open(each, num_new_tokens=1, on_abort=lambda _: None) for each in requests]
    streams.expire_unsent(2.0)
    ends = [asyncio.run(_drain(stream)) for stream in made[:2]]
    assert ends == [([], FinishReason.TIMEOUT), ([], FinishReason.QUEUE_TIMEOUT)]
    assert len(streams) == 1


def test_what_has_not_begun_is_in_the_backlog() -> None:
    streams = _streams("a", "b", "c")
    assert streams.backlog.num_tokens == 21
    streams.start(["a", "a replay"])
    streams.deliver(RequestOutput(id="b", new_ids=[1]))
    assert streams.backlog.num_tokens == 7
    streams.engine_ended("it ended")  # all wait again, "b" with its token
    assert streams.backlog.num_tokens == 22
    streams.drop_unsent("c")
    assert streams.backlog.num_tokens == 15
    streams.fail_all(lambda: EngineDied("for good"))
    assert streams.backlog.num_tokens == 0


def test_what_has_begun_has_no_limit_of_its_time_in_the_queue_any_more() -> None:
    """Also if the engine that began it ended before its first token."""
    streams = OpenStreams(on_discarded=lambda _: None)
    for name in ("begun", "waiting"):
        request = msgspec.structs.replace(_request(name), start_by_s=5.0)
        streams.open(request, num_new_tokens=1, on_abort=lambda _: None)
    streams.take_unsent()
    streams.start(["begun"])
    streams.engine_ended("it ended")
    streams.expire_unsent(5.0)
    assert "begun" in streams
    assert "waiting" not in streams
    assert [request.start_by_s for request in streams.take_unsent()] == [None]


def test_progress_of_a_prompt_does_not_go_back_with_the_next_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []
    monkeypatch.setattr(OutputStream, "put", lambda _, output: told.append(output.num_prompt_computed))
    streams = _streams("a")
    streams.start(["a"])
    for num_computed in (5, 9):
        streams.deliver(RequestOutput(id="a", num_prompt_computed=num_computed))
    assert [request.id for request in streams.engine_ended("it ended")] == ["a"]
    streams.take_unsent()
    for num_computed in (5, 9, 12):
        streams.deliver(RequestOutput(id="a", num_prompt_computed=num_computed))
    streams.deliver(RequestOutput(id="a", num_prompt_computed=12, new_ids=[1]))
    assert told == [5, 9, 12, 12]


def test_the_next_engine_is_told_what_was_said() -> None:
    streams = OpenStreams(on_discarded=lambda _: None)
    sampling = SamplingParams(max_tokens=9, seed=5, prompt_logprobs=0)
    request = EngineRequest(id="a", prompt_ids=[1], sampling=sampling, arrival_s=0.0)
    streams.open(request, num_new_tokens=1, on_abort=lambda _: None)
    assert streams.take_unsent() == [request]
    for new_ids, num_drafted in (([7], 0), ([8, 9], 4)):
        output = RequestOutput(id="a", new_ids=new_ids, num_cached_tokens=16, num_drafted=num_drafted)
        streams.deliver(msgspec.structs.replace(output, num_predicted=[1, 2][-len(new_ids) :]))
    streams.engine_ended("it ended")
    (again,) = streams.take_unsent()
    assert again.resumption == Resumption(output_ids=[7, 8, 9], num_cached_tokens=16, num_drafted=4, num_predicted=2)
    assert (again.sampling.seed, again.drawn_seed, again.sampling.prompt_logprobs) == (
        5,
        None,
        None,
    )  # the prompt's came with the first token


def test_a_request_to_score_labels_begins_anew_in_the_next_engine() -> None:
    streams = OpenStreams(on_discarded=lambda _: None)
    question = ScoredQuestion([2], [[(3,)], [(4,)]])
    request = ScoringRequest(id="s", prompt_ids=[1], questions=[question], arrival_s=0.0, start_by_s=9.0)
    streams.open(request, num_new_tokens=2, on_abort=lambda _: None)
    assert streams.take_unsent() == [request]
    streams.start(["s"])
    assert [each.max_tokens for each in streams.running()] == [1]
    streams.engine_ended("gone")
    assert streams.take_unsent() == [msgspec.structs.replace(request, start_by_s=None)]
    streams.start(["s"])
    # Its length says nothing about answers.
    assert streams.deliver(RequestOutput(id="s", finish_reason=FinishReason.STOP)) is None
    assert len(streams) == 0
    streams.check()
