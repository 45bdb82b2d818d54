"""ScoringRequests in an engine over a ledger: one request each, whatever runs beside them."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from engine.engine import Engine
from engine.protocol import (
    AbortReason,
    EngineRequest,
    FinishReason,
    RequestOutput,
    ScoredQuestion,
    ScoringRequest,
    ServiceClass,
    StepStats,
)
from engine.protocol.scoring import Path
from engine.scoring.labels import LabelTrie
from engine.scoring.walk import LabelWalk
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request
from tests.helpers.ledger import VOCAB_SIZE, label_logprob

pytestmark = pytest.mark.fast

LABELS = [[(1,), (2, 3)], [(4, 5, 6)], [(2, 7), (4, 5)]]


def _request(
    id: str, num_state: int = 30, num_questions: int = 3, num_common: int = 0, **fields: Any
) -> ScoringRequest:
    """num_common: tokens with which every third question begins alike."""
    questions = [
        ScoredQuestion(
            [*make_prompt(num_common, seed=number % 3), *make_prompt(3 + number % 7, seed=number)],
            LABELS[: 2 + number % 2],
        )
        for number in range(num_questions)
    ]
    state = make_prompt(num_state, seed=len(id))
    return ScoringRequest(**{"id": id, "prompt_ids": state, "questions": questions, "arrival_s": 0.0, **fields})


def _expected(request: ScoringRequest) -> list[list[float]]:
    """The probabilities of each question's labels, worked out without an engine."""
    scores = []
    for question in request.questions:
        walk = LabelWalk(LabelTrie(question.labels))
        while nodes := walk.due():
            for node in nodes:
                history = [*request.prompt_ids, *question.ids, *node.path]
                walk.expand(node, [label_logprob(history, each) for each in node.children])
        scores.append(walk.masses().probabilities)
    return scores


def _run(
    engine: Engine, each_step: Callable[[int], None] = lambda _: None
) -> tuple[dict[str, RequestOutput], list[StepStats]]:
    """Step until nothing is left. Returns the terminal outputs; a ScoringRequest must have no other."""
    ended: dict[str, RequestOutput] = {}
    steps = []
    while engine.has_work:
        each_step(len(steps))
        step = engine.step()
        steps.append(step.stats)
        for output in step.outputs:
            assert output.id not in ended, f"{output.id} ends twice"
            if output.finish_reason is not None:
                ended[output.id] = output
        assert len(steps) < 3000
    return ended, steps


def _probabilities(output: RequestOutput) -> list[list[float]]:
    assert output.finish_reason is FinishReason.STOP, output
    assert output.scores is not None
    assert not output.new_ids
    return [each.probabilities for each in output.scores]


KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "windows": {"windows": (None, 6)},
    "only windows": {"windows": (5,)},
    "chunks": {"windows": (None, -7)},
    "chunks of small blocks": {"windows": (None, -4), "ratios": (2, 1)},
    "blocks of two sizes": {"windows": (6, None), "ratios": (1, 2)},
    "states": {"num_states": 12},
    "few states": {"num_states": 3},
    "small pool": {"num_blocks": 26},
    "no cache": {"enable_prefix_caching": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_scores_are_the_same_under_every_schedule(kind: str, seed: int) -> None:
    draw = random.Random(f"{kind} {seed}")
    engine, _ = make_engine(
        **{
            "max_num_seqs": draw.choice([1, 2, 8, 64]),
            "max_num_batched_tokens": draw.choice([8, 64]),
            "max_model_len": 64,
            **KINDS[kind],
        }
    )
    scoring = [
        _request(
            f"{'s' * (1 + number // 2)}{number}", draw.choice([1, 16, 30, 41]), draw.randint(1, 12), 6 * (number % 2)
        )
        for number in range(3)
    ]
    others = [make_request(f"o{number}", make_prompt(9, seed=number), max_tokens=12) for number in range(3)]
    arrivals: dict[int, list[ScoringRequest | EngineRequest]] = {}
    for request in (*scoring, *others):
        arrivals.setdefault(draw.choice([0, 0, 2, 5]), []).append(request)

    def arrive(step: int) -> None:
        for request in arrivals.pop(step, []):
            engine.score(request) if isinstance(request, ScoringRequest) else engine.add(request)

    arrive(0)
    ended: dict[str, RequestOutput] = {}
    while engine.has_work:
        more, _ = _run(engine, arrive)
        ended |= more
        if arrivals:
            arrive(min(arrivals))
    for request in scoring:
        assert _probabilities(ended[request.id]) == [pytest.approx(each) for each in _expected(request)]
    assert {each.id: len(expected_ids(each)) > 0 for each in others}.keys() <= ended.keys()
    _check_empty(engine)


def _check_empty(engine: Engine) -> None:
    """Nothing of a request is left: a new one may use its id and all blocks."""
    stats = engine.step().stats
    assert (stats.blocks_used, stats.states_used, stats.running, stats.waiting) == (0, 0, 0, 0)


@pytest.mark.parametrize("num_state", [64, 66])
def test_each_token_is_computed_once(num_state: int) -> None:
    engine, runner = make_engine(num_blocks=400, max_model_len=128, max_num_seqs=8, max_num_batched_tokens=256)
    request = _request("s", num_state, num_questions=40)
    engine.score(request)
    ended, steps = _run(engine)
    assert ended["s"].num_cached_tokens == sum(step.prefix_hits for step in steps) == 0
    assert sum(step.prefix_queries for step in steps) == num_state + len(request.questions[0].ids)
    prompts = [[*request.prompt_ids, *question.ids] for question in request.questions]
    blocks = {tuple(ids[:end]) for ids in prompts for end in range(4, len(ids) + 1, 4)}
    num_written = ended["s"].num_written_tokens
    assert num_written == 4 * len(blocks)
    # Some beginnings of questions are alike, and found too.
    assert runner.num_tokens <= request.num_tokens + _num_deeper_rows(request)
    assert runner.num_copies
    before = runner.num_tokens
    engine.score(_request("t", num_state, num_questions=40))
    ended, _ = _run(engine)
    assert ended["t"].num_cached_tokens >= num_state // 4 * 4
    assert ended["t"].num_written_tokens <= num_written - num_state // 4 * 4
    assert runner.num_tokens - before < request.num_tokens - num_state + 4 + _num_deeper_rows(request)


@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("num_common", [5, 11, 19])
def test_beginnings_of_questions_are_computed_once(block_size: int, num_common: int) -> None:
    engine, runner = make_engine(block_size=block_size, num_blocks=400, max_model_len=128, max_num_batched_tokens=256)
    request = _request("s", 33, num_questions=24, num_common=num_common)
    engine.score(request)
    ended, _ = _run(engine)
    assert _probabilities(ended["s"]) == [pytest.approx(each) for each in _expected(request)]
    beginnings = {tuple(question.ids[:num_common]) for question in request.questions}
    rest = sum(len(question.ids) - num_common for question in request.questions)
    assert runner.num_tokens <= 33 + len(beginnings) * num_common + rest + _num_deeper_rows(request)
    assert ended["s"].num_cached_tokens == 0
    _check_empty(engine)


def test_rows_that_copy_a_block_fill_steps() -> None:
    engine, _ = make_engine(block_size=16, num_blocks=60, max_num_batched_tokens=16)
    labels = [[(first, 30)] for first in range(8)]
    question = ScoredQuestion(make_prompt(12, seed=1), labels)
    engine.score(ScoringRequest(id="s", prompt_ids=make_prompt(3), questions=[question], arrival_s=0.0))
    _, steps = _run(engine)
    assert [step.prefill_tokens for step in steps if step.prefill_tokens] == [15, 8]


def _num_deeper_rows(request: ScoringRequest) -> int:
    """The rows of all tries behind their roots."""
    paths = [
        {path[:end] for paths in q.labels for path in paths for end in range(1, len(path))} for q in request.questions
    ]
    return sum(map(len, paths))


@pytest.mark.parametrize("kind", ["windows", "states"])
def test_questions_continue_from_the_end_of_the_state(kind: str) -> None:
    engine, runner = make_engine(
        **{"num_blocks": 400, "max_model_len": 256, "max_num_batched_tokens": 256, **KINDS[kind]}
    )
    request = _request("s", num_state=128, num_questions=6)
    engine.score(request)
    _run(engine)
    assert runner.num_tokens < 128 + 6 * 40


@pytest.mark.parametrize("kind", ["full", "windows", "states"])
@pytest.mark.parametrize("is_marked", [True, False])
def test_another_state_continues_from_a_branch_point(kind: str, is_marked: bool) -> None:
    engine, _ = make_engine(**{"num_blocks": 400, "max_model_len": 256, "max_num_batched_tokens": 256, **KINDS[kind]})
    first = _request("s", num_state=128, branch_points=[50] if is_marked else [])
    engine.score(first)
    _run(engine)
    state = [*first.prompt_ids[:50], *make_prompt(60, seed=9)]
    engine.score(_request("t", prompt_ids=state))
    ended, _ = _run(engine)
    assert _probabilities(ended["t"])
    # Without a state at the branch point there is nothing to continue from; other blocks are kept anyway.
    assert ended["t"].num_cached_tokens == (0 if kind == "states" and not is_marked else 48)


@pytest.mark.parametrize("is_marked", [True, False])
def test_blocks_at_a_branch_point_outlive_others_out_of_the_window(is_marked: bool) -> None:
    engine, _ = make_engine(windows=(None, 6), num_blocks=120, max_model_len=256)
    first = _request("s", num_state=128, branch_points=[50] if is_marked else [])
    engine.score(first)
    for number in range(4):
        engine.add(make_request(f"o{number}", make_prompt(40, seed=20 + number), max_tokens=2))
        _run(engine)
    engine.score(_request("t", prompt_ids=[*first.prompt_ids[:50], *make_prompt(60, seed=9)]))
    ended, _ = _run(engine)
    assert ended["t"].num_cached_tokens == (48 if is_marked else 0)


def test_a_request_counts_as_one() -> None:
    engine, _ = make_engine(num_blocks=400, max_num_seqs=4, max_model_len=128)
    engine.score(_request("s", num_questions=30))
    engine.score(_request("t", num_questions=30, service_class=ServiceClass.BACKGROUND))
    engine.score(_request("u", num_questions=30, service_class=ServiceClass.BATCH))
    _, steps = _run(engine)
    assert {each.running for each in steps} == {0, 1}
    assert max(each.running + each.waiting for each in steps) == 2
    assert max(each.waiting_background for each in steps) <= 1
    assert {each.running_batch + each.waiting_batch + each.paused_batch for each in steps} == {0, 1}


def test_a_request_that_has_failed_does_not_count() -> None:
    engine, runner = make_engine(num_blocks=400, max_model_len=128, max_num_seqs=8, max_num_batched_tokens=12)
    runner.fail_ids.add("s/1")
    engine.score(_request("s", num_questions=20))
    while not (last := engine.step()).outputs:
        pass
    assert (last.stats.running, last.stats.waiting) == (0, 0)


def test_questions_that_are_left_count_as_pending() -> None:
    engine, _ = make_engine(num_blocks=400, max_model_len=128, max_num_seqs=4)
    request = _request("s", num_questions=20)
    engine.score(request)
    pending = [engine.step().stats.pending_prompt_tokens for _ in range(8)]
    num_tokens = sum(len(question.ids) for question in request.questions)
    assert num_tokens - 40 < pending[0] < num_tokens
    assert pending[-1] < pending[0]


def test_only_the_state_stays_cached_of_short_questions() -> None:
    engine, _ = make_engine(num_blocks=400, max_model_len=128)
    request = _request("s", num_state=33)
    questions = [ScoredQuestion([number, 1], [[(1,)], [(2,)]]) for number in range(20)]
    engine.score(msgspec.structs.replace(request, questions=questions))
    _, steps = _run(engine)
    assert steps[-1].blocks_cached == 8


def test_no_beginning_of_short_questions_stays_cached() -> None:
    engine, _ = make_engine(block_size=16, num_blocks=100, max_model_len=128)
    request = _request("s", num_state=33)
    questions = [ScoredQuestion([*make_prompt(5, seed=number % 3), number], [[(1,)], [(2,)]]) for number in range(20)]
    engine.score(msgspec.structs.replace(request, questions=questions))
    _, steps = _run(engine)
    assert steps[-1].blocks_cached == 2


def test_others_start_while_questions_are_left() -> None:
    engine, _ = make_engine(num_blocks=400, max_num_seqs=4, max_model_len=128)
    engine.score(_request("s", num_questions=100))
    engine.step()
    engine.step()
    engine.add(make_request("other", make_prompt(5), max_tokens=4))
    outputs = [output for _ in range(3) for output in engine.step().outputs]
    assert {output.id for output in outputs} == {"other"}
    ended, _ = _run(engine)
    assert _probabilities(ended["s"])


def test_others_get_tokens_while_questions_are_left() -> None:
    engine, _ = make_engine(num_blocks=400, max_num_seqs=16, max_num_batched_tokens=16, max_model_len=128)
    engine.score(_request("s", num_questions=100))
    for _ in range(4):
        engine.step()
    engine.add(make_request("other", make_prompt(16), max_tokens=2))
    outputs = [output for _ in range(4) for output in engine.step().outputs]
    assert {output.id for output in outputs} == {"other"}


def test_a_request_waits_in_line_once() -> None:
    engine, _ = make_engine(num_blocks=400, max_num_seqs=4, max_model_len=128)
    others = iter(make_request(f"o{number}", make_prompt(5, seed=number), max_tokens=12) for number in range(200))

    def keep_waiting(_step: int) -> None:
        while len(engine_ids) < 8:
            engine_ids.add((other := next(others)).id)
            engine.add(other)

    engine_ids: set[str] = set()
    keep_waiting(0)
    engine.score(_request("s", num_questions=20))
    for step in range(130):
        outputs = engine.step().outputs
        engine_ids -= {output.id for output in outputs if output.finish_reason is not None}
        if any(output.id == "s" for output in outputs):
            break
        keep_waiting(step)
    else:
        raise AssertionError("the request waits for others again and again")


@pytest.mark.parametrize("service_class", [ServiceClass.BATCH, ServiceClass.BACKGROUND])
def test_rows_of_lesser_classes_do_not_hold_up_a_request(service_class: ServiceClass) -> None:
    engine, _ = make_engine(num_blocks=1000, max_num_seqs=64, max_num_batched_tokens=64, max_model_len=128)
    for number in range(4):
        engine.score(_request(f"b{number}", num_state=60, num_questions=20, service_class=service_class))
    for _ in range(4):
        engine.step()
    engine.score(_request("s", num_questions=30))
    outputs = [output for _ in range(20) for output in engine.step().outputs]
    assert "s" in {output.id for output in outputs}


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3])
def test_an_abort_ends_all_of_it(num_steps: int) -> None:
    engine, runner = make_engine(num_blocks=400, max_num_seqs=8, max_num_batched_tokens=16, max_model_len=128)
    engine.score(_request("s", num_questions=50))
    for _ in range(num_steps):
        engine.step()
    engine.abort("s", AbortReason.CLIENT_GONE)
    num_tokens = runner.num_tokens
    ended, steps = _run(engine)
    assert ended["s"].finish_reason is FinishReason.ABORT
    assert (ended["s"].scores, len(steps)) == (None, 1)
    assert runner.num_tokens == num_tokens
    _check_empty(engine)


def test_time_limits_end_all_of_it() -> None:
    engine, _ = make_engine(num_blocks=400, max_num_seqs=4, max_model_len=128)
    engine.score(_request("due", num_questions=50, deadline_s=0.0))
    engine.score(_request("late", num_questions=50, start_by_s=0.0))
    ended, _ = _run(engine)
    assert ended["due"].finish_reason is FinishReason.TIMEOUT
    assert ended["late"].finish_reason is FinishReason.QUEUE_TIMEOUT
    _check_empty(engine)


def test_a_fault_of_one_question_ends_the_request_and_no_other() -> None:
    engine, runner = make_engine(num_blocks=400, max_model_len=128)
    runner.fail_ids.add("s/2")
    engine.score(_request("s", num_questions=20))
    engine.score(_request("tt", num_questions=20))
    ended, _ = _run(engine)
    failed = ended["s"]
    assert (failed.finish_reason, failed.error, failed.failed_question) == (FinishReason.ERROR, "made to fail", 2)
    assert _probabilities(ended["tt"])
    _check_empty(engine)


@pytest.mark.parametrize("number", [0, 3])
def test_a_question_beyond_the_context_is_refused(number: int) -> None:
    engine, _ = make_engine(num_blocks=400, max_model_len=128)
    request = _request("s", num_questions=5)
    request.questions[number].ids.extend([1] * 200)
    engine.score(request)
    ended, _ = _run(engine)
    assert (ended["s"].finish_reason, ended["s"].is_refused) == (FinishReason.ERROR, True)
    _check_empty(engine)


def test_the_start_is_reported_under_the_requests_id() -> None:
    reported: list[str] = []
    engine, _ = make_engine(num_blocks=400, max_model_len=128, on_started=reported.extend)
    engine.score(_request("s"))
    engine.step()
    assert reported == ["s"]


def test_ids_are_within_the_ledgers_vocabulary() -> None:
    assert max(token for paths in LABELS for path in paths for token in path) < VOCAB_SIZE


def test_a_questions_trie_is_made_when_its_first_row_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(LabelTrie):
        def __init__(self, labels: list[list[Path]]) -> None:
            made.append(len(labels))
            super().__init__(labels)

    monkeypatch.setattr("engine.scoring.run.LabelTrie", Counted)
    engine, _ = make_engine(max_num_seqs=4, max_num_batched_tokens=16)
    request = _request("s", num_questions=20)
    engine.score(request)
    assert len(made) == 1
    most = num_before = 0

    def count(_: int) -> None:
        nonlocal most, num_before
        most, num_before = max(most, len(made) - num_before), len(made)

    ended, _ = _run(engine, count)
    assert _probabilities(ended["s"]) == [pytest.approx(each) for each in _expected(request)]
    assert (len(made), most <= 4) == (20, True)
