"""`headrace bench spec`: turns with and without drafts, on the ledger."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from engine.command_io.bench_config import SpeculationConfig
from engine.commands.bench import speculation
from engine.commands.bench.speculation_tasks import BenchTask, SpeculationCase, TaskText, TaskTexts, parse_cases
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import StartupError
from engine.protocol import EngineInfo, StepOutputs
from engine.scheduling import scheduler
from engine.speculation.proposers import DraftSource
from tests.helpers.drafting import AlwaysFull, Oracle, speculating_engine
from tests.helpers.engines import make_engine, make_prompt, make_request
from tests.helpers.fake_client import engine_info

NGRAM = SpeculationCase(DraftSource.NGRAM, BenchTask.EDIT)


class ShortTexts:
    """Of the ledger's few tokens."""

    taken: list[TaskText]

    def __init__(self, *_: object) -> None:
        ShortTexts.taken = []

    def take(self, _: SpeculationCase, count: int) -> list[TaskText]:
        first = len(self.taken)
        texts = [TaskText([1 + n // 30, 1 + n % 30, 2, 3], []) for n in range(first, first + count)]
        self.taken += texts
        return texts


@pytest.fixture
def info(monkeypatch: pytest.MonkeyPatch) -> EngineInfo:
    """An engine's whose tokens are the ledger's."""
    monkeypatch.setattr(speculation, "TaskTexts", ShortTexts)
    monkeypatch.setattr(scheduler.secrets, "randbits", lambda _: 0)  # its tokens depend on seeds
    return engine_info(max_model_len=200, num_blocks=64, block_size=4)


def _engine() -> Engine:
    return speculating_engine(AlwaysFull(4, lookups=[Oracle(0.9)]))[0]


def _config(*, num_iters: int = 2, **options: object) -> SpeculationConfig:
    return SpeculationConfig(
        **{"case": ("ngram:edit", "prediction:edit"), "batch_size": (1, 3), "output_len": 20, **options},  # type: ignore[arg-type]
        num_iters=num_iters,
        num_iters_warmup=1,
    )


def test_drafts_are_compared_with_none_for_each_case_and_batch_size(info: EngineInfo) -> None:
    results = speculation.measure_speculation(_engine(), info, _config())
    assert [(result.case, result.batch_size) for result in results] == list(
        itertools.product(["ngram, edit", "prediction, edit"], [1, 3])
    )
    assert all(result.same_texts == 1.0 for result in results)
    assert all(len(result.speedups) == 2 for result in results)
    drafted, undrafted = results[:2], results[2:]  # of the requests none has a prediction
    assert all(0.5 < result.acceptance <= 1.0 and result.draft_length > 1 for result in drafted)
    assert all(result.draft_length == 0 for result in undrafted)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(speculation.speculation_table(results, _config()))
    assert "ngram, edit" in captured.get()


def test_every_turn_has_new_texts_and_turns_begin_with_and_without_drafts_alternately(
    info: EngineInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine()
    order: list[Sequence[DraftSource]] = []
    monkeypatch.setattr(engine, "set_draft_sources", order.append)
    speculation.measure_speculation(engine, info, _config(case=("ngram:edit",), num_iters=3))
    assert len({tuple(text.prompt_ids) for text in ShortTexts.taken}) == 4 * (1 + 3)
    assert order[:8] == [[], [DraftSource.NGRAM], [DraftSource.NGRAM], []] * 2


def test_only_steps_in_which_all_generate_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt begins to generate late, and what the other text's end leaves alone counts nowhere."""
    engine, _ = make_engine(max_num_batched_tokens=8)
    seconds = 0
    run_step = engine.step

    def step() -> StepOutputs:
        nonlocal seconds
        seconds += 1
        return run_step()

    monkeypatch.setattr(engine, "step", step)
    monkeypatch.setattr(speculation.time, "perf_counter", lambda: seconds)
    requests = [
        make_request(id, make_prompt(num_prompt), max_tokens=max_tokens, ignore_eos=True)
        for id, num_prompt, max_tokens in (("a", 4, 60), ("b", 60, 10))
    ]
    run = speculation._run(engine, requests)
    assert (run.tokens_per_s, run.steps) == (2.0, 9)


def test_long_prompts_leave_time_in_which_all_generate(info: EngineInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed beforehand: else the first text would be drafted to its end while the others' were."""
    seeds = itertools.count()

    def take(_: ShortTexts, __: SpeculationCase, count: int) -> list[TaskText]:
        return [TaskText(make_prompt(60, seed=next(seeds)), []) for _ in range(count)]

    monkeypatch.setattr(ShortTexts, "take", take)
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[Oracle(1.0)]), max_num_batched_tokens=16, num_blocks=128)
    (result,) = speculation.measure_speculation(engine, info, _config(case=("ngram:edit",), batch_size=(3,)))
    assert result.tokens_per_s.low > 0


def test_texts_too_short_to_measure_are_refused(info: EngineInfo) -> None:
    engine = speculating_engine(AlwaysFull(4, lookups=[Oracle(1.0)]), max_num_batched_tokens=8)[0]
    with pytest.raises(StartupError, match="raise --output-len"):
        speculation.measure_speculation(engine, info, _config(output_len=2, batch_size=(6,)))


def test_texts_too_short_for_one_batch_size_leave_the_others(
    info: EngineInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = speculating_engine(AlwaysFull(4, lookups=[Oracle(1.0)]), max_num_batched_tokens=8)[0]
    results = speculation.measure_speculation(
        engine, info, _config(case=("ngram:edit",), output_len=6, batch_size=(1, 6))
    )
    assert [result.batch_size for result in results] == [1]
    assert "ngram, edit, batch 6 is left out: a text ended before all had started" in capsys.readouterr().err


def test_cases_are_by_default_those_that_can_be_had() -> None:
    lookups = {DraftSource.NGRAM, DraftSource.PREDICTION}
    assert [case.name for case in parse_cases([], lookups)] == ["ngram, edit", "prediction, edit"]
    assert [case.name for case in parse_cases([], set(DraftSource))][:2] == ["draft model, code", "draft model, chat"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("ngram", "must be one of draft, ngram, prediction, a colon, and one of edit, code, chat"),
        ("eagle:code", "'eagle:code'; it must be one of"),
        ("draft:code", "needs a draft model"),
        ("prediction:chat", "only an edit can be predicted"),
    ],
)
def test_cases_that_cannot_be_are_refused_before_the_model_is_loaded(case: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        speculation.check(SpeculationConfig(case=(case,)), EngineConfig())


@pytest.mark.parametrize(
    ("plot", "message"), [("speedup.nothing", "must name a format"), ("nowhere/speedup.png", "folder does not exist")]
)
def test_a_plot_that_cannot_be_written_is_refused_before_the_model_is_loaded(plot: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        speculation.check(SpeculationConfig(plot=plot), EngineConfig())


def test_the_plot_has_a_line_for_each_case(info: EngineInfo, tmp_path: Path) -> None:
    results = speculation.measure_speculation(_engine(), info, _config(output_len=8))
    speculation.write_speedup_plot(str(tmp_path / "speedup.svg"), results, "some-model")
    drawn = (tmp_path / "speedup.svg").read_text()
    assert "<!-- ngram, edit -->" in drawn
    assert "<!-- prediction, edit -->" in drawn


def test_texts_are_different_and_predictions_are_the_text_before_the_edit() -> None:
    texts = TaskTexts(engine_info(), 12)
    edits = texts.take(SpeculationCase(DraftSource.PREDICTION, BenchTask.EDIT), 60)
    assert len({tuple(text.prompt_ids) for text in edits}) == 60
    for text in edits:
        predicted = bytes(text.prediction_ids).decode()
        assert predicted in bytes(text.prompt_ids).decode()
        assert predicted.count("\n") == 12
    assert not any(text.prediction_ids for text in texts.take(NGRAM, 3))


def test_when_texts_run_out_that_is_said() -> None:
    texts = TaskTexts(engine_info(), 30)
    with pytest.raises(StartupError, match="no more texts; lower --num-iters"):
        texts.take(NGRAM, 100_000)
