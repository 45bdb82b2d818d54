"""Speculator: what is counted and learned, who drafts, and steps that are those of no speculation."""

from engine.local import LocalClient
from engine.plan import StepPlan, StepResult
from engine.protocol import EngineRequest, SamplingParams
from engine.sequence import Sequence
from engine.spec.ngram import Follower, NgramIndex, NgramProposer
from engine.spec.speculator import Speculator
from tests.helpers.drafting import AlwaysFull, Oracle, Timed, speculating_engine, texts
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request


def _requests(count: int = 4) -> list[EngineRequest]:
    return [make_request(f"r{i}", make_prompt(6, seed=i), max_tokens=40, ignore_eos=True) for i in range(count)]


def test_accepted_tokens_are_counted_by_place_and_request() -> None:
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[Oracle(0.6)]))
    client = LocalClient(engine)
    outputs = client.generate(_requests())
    drafted = sum(step.draft_tokens for step in client.steps)
    accepted = sum(step.accepted_tokens for step in client.steps)
    assert 0 < accepted < drafted
    assert sum(sum(step.accepted_by_position) for step in client.steps) == accepted
    assert sum(output.num_drafted for output in outputs.values()) == drafted
    assert sum(output.num_draft_accepted for output in outputs.values()) == accepted
    assert sum(len(output.new_ids) for output in outputs.values()) == 4 * 40


def test_finished_sequences_are_released() -> None:
    oracle = Oracle(0.5)
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[oracle]))
    texts(engine, _requests())
    assert sorted(oracle.released) == ["r0", "r1", "r2", "r3"]


def test_refused_drafts_stop_and_are_tried_again() -> None:
    engine, _ = speculating_engine(Timed(8, lookups=[Oracle(0.0)]), num_blocks=512, max_model_len=1100)
    _, client = texts(engine, [make_request("a", make_prompt(6), max_tokens=1000, ignore_eos=True)])
    tried = [index for index, step in enumerate(client.steps) if step.draft_tokens]
    assert len(tried) < 100
    assert tried[-1] > 500


def test_good_drafts_are_taken_as_far_as_they_pay() -> None:
    def lengths(row_ms: float) -> list[int]:
        speculator = Timed(8, lookups=[Oracle(0.9)])
        speculator.row_ms = row_ms
        engine, _ = speculating_engine(speculator, num_blocks=512, max_model_len=1100)
        _, client = texts(engine, [make_request("a", make_prompt(6), max_tokens=600, ignore_eos=True)])
        assert all(step.realised_speedup is not None for step in client.steps[1:])
        return [step.draft_tokens for step in client.steps[-40:]]

    free, cheap, dear = lengths(0.0), lengths(4.0), lengths(1000.0)
    assert sum(free) / 40 > 6
    assert 2 < sum(cheap) / 40 < sum(free) / 40
    assert sum(dear) / 40 < 0.5


def test_under_load_nobody_drafts() -> None:
    """Where the arithmetic of 32 rows already sets the time of a step, a row more costs what it brings."""

    class ComputeBound(Timed):
        def observe(self, plan: StepPlan, result: StepResult, step_s: float) -> None:  # noqa: ARG002
            Speculator.observe(self, plan, result, 0.002 * max(16, plan.num_tokens))

    requests = [make_request(f"r{i}", make_prompt(6, seed=i), max_tokens=60, ignore_eos=True) for i in range(32)]
    engine, _ = speculating_engine(
        ComputeBound(8, lookups=[Oracle(0.7)]), num_blocks=1024, max_model_len=100, max_num_batched_tokens=512
    )
    _, client = texts(engine, requests)
    loaded = [step for step in client.steps if step.running == 32][5:]
    assert sum(step.draft_tokens for step in loaded) < 0.05 * sum(step.decode_tokens for step in loaded)


def test_with_no_drafts_chosen_the_steps_are_those_without_speculation() -> None:
    """Counts forwards and rows: a speculator that never finds it worth while costs no pass and no row."""

    class Unwilling(Speculator):
        def _choose(self, proposals, running, max_num_batched_tokens):  # type: ignore[no-untyped-def]
            choice = super()._choose(proposals, running, max_num_batched_tokens)
            choice.lengths[:] = [0] * len(proposals)
            return choice

    rows = []
    for speculator in (Unwilling(8, lookups=[Oracle(1.0)]), None):
        engine, runner = make_engine(speculator=speculator)
        _, client = texts(engine, _requests(8))
        rows.append((runner.num_tokens, [(step.prefill_tokens, step.decode_tokens) for step in client.steps]))
    assert rows[0] == rows[1]


def test_prediction_tokens_are_counted_whether_or_not_they_are_drafted() -> None:
    request = make_request("a", make_prompt(6), max_tokens=20, ignore_eos=True)
    text = expected_ids(request)
    changed = [*text[:8], 41, *text[9:], 1, 2, 3]  # one other token; three that never come
    predicting = EngineRequest(
        id="a", prompt_ids=request.prompt_ids, sampling=request.sampling, arrival_s=0.0, prediction_ids=changed
    )
    for speculator in (AlwaysFull(6), AlwaysFull(1), Speculator(6)):
        engine, _ = speculating_engine(speculator)
        output = LocalClient(engine).generate([predicting])["a"]
        assert output.new_ids == text
        assert output.num_predicted == 8 + 20 - 9 - 2  # found again after two tokens


def test_a_prediction_spares_most_steps() -> None:
    request = make_request("a", make_prompt(6), max_tokens=60, ignore_eos=True)
    predicting = EngineRequest(
        id="a",
        prompt_ids=request.prompt_ids,
        sampling=request.sampling,
        arrival_s=0.0,
        prediction_ids=expected_ids(request),
    )
    engine, _ = speculating_engine(AlwaysFull(9))
    _, client = texts(engine, [predicting])
    assert len(client.steps) == 1 + 6


def test_ngram_finds_the_latest_place_and_follows_it() -> None:
    tokens = [1, 2, 3, 9, 1, 2, 4, 8, 7, 1, 2]
    proposer = NgramProposer(2, 3)
    sequence = _sequence_of(tokens)
    assert proposer.propose(sequence, 3) == [4, 8, 7]
    sequence.tokens += [4]
    assert proposer.propose(sequence, 2) == [8, 7]
    sequence.tokens += [5]
    assert proposer.propose(sequence, 2) == []  # (4, 5) is new


def test_ngram_indexes_a_long_prompt_over_several_calls() -> None:
    sequence = _sequence_of([*range(9000), 5, 6])
    proposer = NgramProposer(2, 2)
    assert proposer.propose(sequence, 1) == [7]
    sequence.tokens += [8500, 8501]
    assert proposer.propose(sequence, 1) == []
    assert proposer.propose(sequence, 1) == [8502]


def test_ngram_prefers_the_longer_match() -> None:
    sequence = _sequence_of([5, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2])
    assert NgramProposer(2, 3).propose(sequence, 1) == [3]


def test_an_index_grows_by_what_is_new() -> None:
    tokens = [1, 2, 1, 2]
    index = NgramIndex(tokens, 1, 2)
    index.update(3)
    assert index.find([2]) == [2]
    tokens.append(3)
    index.update(5)
    assert index.find([1, 2]) == [2, 4]


def test_a_follower_resumes_after_the_place_it_lost() -> None:
    source = [1, 2, 3, 4, 1, 2, 5, 1, 2, 6]
    index = NgramIndex(source, 2, 2)
    index.update(len(source))
    follower = Follower(source, index, place=0, num_seen=0)
    text = [1, 2, 3, 9, 1, 2]
    follower.advance(text)
    assert follower.next_tokens(text, 2, prefers_latest=False) == [5, 1]


def _sequence_of(tokens: list[int]) -> Sequence:
    request = EngineRequest(id="a", prompt_ids=list(tokens), sampling=SamplingParams(max_tokens=9), arrival_s=0.0)
    return Sequence(request=request, seed=0, tokens=list(tokens), num_prompt=len(tokens))
