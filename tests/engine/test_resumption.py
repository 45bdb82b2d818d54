"""Requests that another engine has started: the rest of the text is the one that this engine would have generated
itself."""

import msgspec
import pytest

from engine.engine import Engine
from engine.protocol import EngineRequest, FinishReason, RequestOutput, Resumption
from engine.speculation import prediction
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_engine, make_prompt, make_request
from tests.helpers.grammars import GRAMMARS, expected_output, sequence_grammar
from tests.helpers.local_client import LocalClient

pytestmark = pytest.mark.fast

_SCHEDULES: dict[str, dict[str, object]] = {
    "alone": {},
    "chunks": {"max_num_batched_tokens": 3, "max_num_seqs": 3},
    "windows": {"windows": (None, 6, -7)},
    "states": {"num_states": 6, "max_num_seqs": 3},
    "without prefix cache": {"enable_prefix_caching": False},
}


def resumed(request: EngineRequest, output_ids: list[int], *, num_cached_tokens: int = 0) -> EngineRequest:
    if not output_ids:
        return request
    resumption = Resumption(output_ids=output_ids, num_cached_tokens=num_cached_tokens)
    return msgspec.structs.replace(request, resumption=resumption)


@pytest.mark.parametrize("name", list(_SCHEDULES))
def test_the_rest_is_the_same_wherever_the_first_engine_ended(name: str) -> None:
    """Several together, and each has come to another place."""
    originals = [
        make_request(f"r{n}", make_prompt(5 + 2 * n, seed=n), max_tokens=14, seed=n, min_tokens=9) for n in range(4)
    ]
    whole = {request.id: expected_ids(request) for request in originals}
    for shift in range(14):
        engine, _ = make_engine(**_SCHEDULES[name])  # type: ignore[arg-type]
        parts = {id: ids[: (shift + 4 * n) % len(ids)] for n, (id, ids) in enumerate(whole.items())}
        outputs = LocalClient(engine).generate(resumed(request, parts[request.id]) for request in originals)
        assert {id: parts[id] + outputs[id].new_ids for id in whole} == whole
        assert all(outputs[id].finish_reason in (FinishReason.STOP, FinishReason.LENGTH) for id in whole)


@pytest.mark.parametrize("number", range(len(GRAMMARS)))
def test_a_grammar_goes_on_behind_the_output(number: int) -> None:
    """From each place at which an output of the first engine may have ended."""
    for seed in range(6):
        request = make_request("a", [1, 2, seed + 1], max_tokens=30, seed=seed, grammar=GRAMMARS[number])
        whole, reason = expected_output(request)
        for output_ids in _ends_of_outputs(request):
            run = SchedulerRun(make_config())
            grammar = sequence_grammar(GRAMMARS[number], output_ids=output_ids)
            run.scheduler.add(resumed(request, output_ids), grammar)
            transcript = run.finish()
            assert output_ids + transcript.ids["a"] == whole
            assert transcript.finish_reasons["a"] is reason


def _ends_of_outputs(request: EngineRequest) -> list[list[int]]:
    """All outputs of the request so far, after each step of an engine but the last."""
    run = SchedulerRun(make_config())
    run.add(request)
    ends: list[list[int]] = []
    while run.scheduler.has_work:
        run.step()
        ends.append(list(run.transcript.ids.get(request.id, [])))
    return [each for each in ends[:-1] if each]


def test_output_that_does_not_match_the_grammar_ends_its_request_alone() -> None:
    """It cannot be, unless the two engines make different things of the grammar."""
    run = SchedulerRun(make_config())
    request = make_request("a", [1, 2, 3], grammar=GRAMMARS[1])
    run.scheduler.add(resumed(request, [5, 5]), sequence_grammar(GRAMMARS[1], output_ids=[5, 5]))
    neighbor = make_request("b", [4, 5, 6])
    run.add(neighbor)
    transcript = run.finish()
    assert transcript.finish_reasons["a"] is FinishReason.ERROR
    assert transcript.ids["b"] == expected_ids(neighbor)


def test_progress_of_the_prompt_is_not_reported_again() -> None:
    engine, _ = make_engine()
    request = make_request("a", make_prompt(20), max_tokens=6, ignore_eos=True, reports_progress=True)
    whole = expected_ids(request)
    steps = _steps(engine, resumed(request, whole[:2], num_cached_tokens=8))
    outputs = [output for step in steps for output in step]
    assert [token_id for output in outputs for token_id in output.new_ids] == whole[2:]
    assert {output.num_cached_tokens for output in outputs} == {8}
    assert {(output.queue_s, output.num_prompt_computed) for output in outputs} == {(None, None)}


def _steps(engine: Engine, request: EngineRequest) -> list[list[RequestOutput]]:
    engine.add(request)
    steps = []
    while engine.has_work:
        steps.append(engine.step().outputs)
    return steps


def test_its_tokens_count_as_computed_again() -> None:
    engine, _ = make_engine()
    request = make_request("a", make_prompt(20), max_tokens=6, ignore_eos=True)
    client = LocalClient(engine)
    client.generate([resumed(request, expected_ids(request)[:2])])
    assert sum(stats.recomputed_tokens for stats in client.steps) == 21
    assert sum(stats.decode_tokens for stats in client.steps) == 4
    assert sum(stats.prefix_queries for stats in client.steps) == 0


def test_it_is_reported_before_the_step_that_computes_it() -> None:
    """It may be the cause if this engine ends, too."""
    reported: list[list[str]] = []
    engine, _ = make_engine(on_started=reported.append)
    request = make_request("a", make_prompt(20), max_tokens=6, ignore_eos=True)
    _steps(engine, resumed(request, expected_ids(request)[:2], num_cached_tokens=8))
    assert reported == [["a"]]


def test_a_request_without_a_seed_goes_on_with_the_one_that_was_drawn() -> None:
    request = make_request("a", make_prompt(9), max_tokens=12, seed=77, ignore_eos=True)
    whole = expected_ids(request)
    unseeded = msgspec.structs.replace(
        request, sampling=msgspec.structs.replace(request.sampling, seed=None), drawn_seed=77
    )
    for output_ids in ([], whole[:5]):
        engine, _ = make_engine()
        outputs = LocalClient(engine).generate([resumed(unseeded, output_ids)])
        assert output_ids + outputs["a"].new_ids == whole


@pytest.mark.parametrize(("num_indexed", "expected"), [(4096, [3, 4, 4, 4]), (1, [2, 2, 2, 2])])
def test_what_it_has_had_of_a_prediction_does_not_go_back(
    num_indexed: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long prediction is read in several steps, and until then an engine cannot count itself."""
    monkeypatch.setattr(prediction, "MAX_INDEXED_PER_STEP", num_indexed)
    request = make_request("a", make_prompt(20), max_tokens=6, ignore_eos=True)
    whole = expected_ids(request)
    request = msgspec.structs.replace(request, prediction_ids=[*whole[:4], *[1] * 30])
    resumption = Resumption(output_ids=whole[:2], num_cached_tokens=0, num_predicted=2)
    engine, _ = make_engine()
    steps = _steps(engine, msgspec.structs.replace(request, resumption=resumption))
    assert [count for outputs in steps for output in outputs for count in output.num_predicted] == expected
