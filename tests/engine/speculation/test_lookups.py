"""Prompt lookup and predictions: what is found, tracked, indexed and counted."""

from typing import Any

from engine.client.output_stream import merge_outputs
from engine.protocol import EngineRequest, RequestOutput, SamplingParams
from engine.scheduling.sequence import Sequence
from engine.speculation.ngram import MAX_INDEXED_PER_STEP, NgramIndex, NgramProposer, RepeatTracker
from engine.speculation.prediction import PredictionProposer
from engine.speculation.speculator import Speculator
from tests.helpers.drafting import AlwaysFull, generate, speculating_engine
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request
from tests.helpers.local_client import LocalClient

# --- prompt lookup --------------------------------------------------------------------------------------------------


def test_ngram_finds_the_latest_position_and_tracks_it() -> None:
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
    proposer.begin_step()
    assert proposer.propose(sequence, 1) == []
    proposer.begin_step()
    assert proposer.propose(sequence, 1) == [8502]


def test_ngram_prefers_the_longer_match() -> None:
    sequence = _sequence_of([5, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2])
    assert NgramProposer(2, 3).propose(sequence, 1) == [3]


class CountingList(list[int]):
    """Counts the items that are read by index or slice."""

    num_read = 0

    def __getitem__(self, key: Any) -> Any:
        self.num_read += len(range(*key.indices(len(self)))) if isinstance(key, slice) else 1
        return super().__getitem__(key)


def test_a_token_costs_the_same_in_a_long_sequence_as_in_a_short_one() -> None:
    num_read = []
    for num_tokens in (490, 19_600):
        tokens = CountingList([n % 7 for n in range(num_tokens)])  # each n-gram occurs often
        sequence, proposer = _sequence_of(tokens), NgramProposer()
        sequence.tokens = tokens
        for _ in range(6):
            proposer.begin_step()
            proposer.propose(sequence, 4)
        tokens.num_read = 0
        for n in range(40):
            tokens.append(9 if n == 20 else n % 7)
            proposer.begin_step()
            assert bool(proposer.propose(sequence, 4)) == (n != 20 and n != 21)
        num_read.append(tokens.num_read)
    assert num_read[0] == num_read[1] < 40 * 30


def test_an_index_grows_by_what_is_new() -> None:
    tokens = [1, 2, 1, 2]
    index = NgramIndex(tokens, 1, 2)
    index.update(3)
    assert index.find([2]) == [2]
    tokens.append(3)
    index.update(5)
    assert index.find([1, 2]) == [2, 4]


def test_a_tracker_resumes_after_the_position_it_lost() -> None:
    source = [1, 2, 3, 4, 1, 2, 5, 1, 2, 6]
    index = NgramIndex(source, 2, 2)
    index.update(len(source))
    tracker = RepeatTracker(index, next_position=0, num_seen=0, prefers_latest=False)
    text = [1, 2, 3, 9, 1, 2]
    tracker.advance(text)
    assert tracker.next_tokens(text, 2) == [5, 1]


# --- predictions ----------------------------------------------------------------------------------------------------


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
        found_again = 11  # after the changed token and two more
        assert output.num_predicted == [min(n, 8) for n in range(1, found_again + 1)] + list(range(9, 18))


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
    _, client = generate(engine, [predicting])
    assert len(client.steps) == 1 + 6


def test_an_output_that_repeats_its_prediction_is_counted_once() -> None:
    sequence = _predicting([1], [2, 3, 4, 5, 6])
    proposer = PredictionProposer()
    for _ in range(3):
        sequence.tokens += [2, 3, 4, 5, 6]
        assert proposer.match_counts(sequence, len(sequence.tokens) - 5, 5)[-1] == 5


def test_the_counts_do_not_depend_on_how_the_tokens_come() -> None:
    prediction = [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 9]
    text = [2, 3, 9, 4, 5, 6, 7, 1, 8, 9, 2, 3, 4, 5]
    counts = []
    for step in (1, 2, 5, len(text)):
        sequence, proposer = _predicting([1], prediction), PredictionProposer()
        found: list[int] = []
        for start in range(0, len(text), step):
            proposer.begin_step()
            proposer.propose(sequence, 3)
            sequence.tokens += text[start : start + step]
            num_new = len(text[start : start + step])
            found += proposer.match_counts(sequence, len(sequence.tokens) - num_new, num_new)
        counts.append(found)
    assert counts == [counts[0]] * 4
    assert len(counts[0]) == len(text)


def test_counts_of_merged_outputs_go_on() -> None:
    """The second of the outputs was made when counting had failed."""
    first = RequestOutput(id="a", new_ids=[1, 2], num_predicted=[1, 2])
    failed, last = RequestOutput(id="a", new_ids=[7]), RequestOutput(id="a", new_ids=[3], num_predicted=[3])
    assert merge_outputs([first, failed, last]).num_predicted == [1, 2, 2, 3]
    assert merge_outputs([failed, last]).num_predicted == [0, 3]
    assert merge_outputs([failed, failed]).num_predicted == []


def test_a_long_prediction_is_indexed_over_several_steps_and_then_tracked() -> None:
    prediction = list(range(2, 2 * MAX_INDEXED_PER_STEP + 10))
    sequence, proposer = _predicting([1], prediction), PredictionProposer()
    sequence.tokens += prediction[:3]
    for _ in range(2):
        assert proposer.propose(sequence, 2) == []
        proposer.begin_step()
    assert proposer.propose(sequence, 2) == [5, 6]
    assert proposer.match_counts(sequence, len(sequence.tokens) - 3, 3)[-1] == 3


def test_choices_share_the_index_of_their_prediction() -> None:
    prediction = list(range(2, MAX_INDEXED_PER_STEP + 1))
    first, second, other = (_predicting([1], prediction, id=id) for id in ("a", "b", "c"))
    other.request.prediction_ids[0] = 1
    proposer = PredictionProposer()
    assert proposer.propose(first, 1) == [2]
    assert proposer.propose(second, 1) == [2]  # in the same step, though the first has used up its share
    assert proposer.propose(other, 1) == []
    for sequence in (first, second, other):
        proposer.release(sequence)
    assert not proposer._indices


def test_a_prediction_that_no_answer_can_be_is_refused() -> None:
    engine, _ = make_engine(max_model_len=20)
    request = make_request("a", [1, 2], max_tokens=5)
    engine.add(EngineRequest(id="a", prompt_ids=[1], sampling=request.sampling, arrival_s=0.0, prediction_ids=[1] * 21))
    (output,) = engine.step().outputs
    assert output.error is not None
    assert "prediction has 21 tokens; an answer can have at most 20; shorten it" in output.error


def _predicting(prompt: list[int], prediction_ids: list[int], id: str = "a") -> Sequence:
    sequence = _sequence_of(prompt)
    sequence.request = EngineRequest(
        id=id,
        prompt_ids=prompt,
        sampling=sequence.request.sampling,
        arrival_s=0.0,
        prediction_ids=list(prediction_ids),
    )
    return sequence


def _sequence_of(tokens: list[int]) -> Sequence:
    request = EngineRequest(id="a", prompt_ids=list(tokens), sampling=SamplingParams(max_tokens=9), arrival_s=0.0)
    return Sequence(request=request, seed=0, tokens=list(tokens), num_prompt=len(tokens))
