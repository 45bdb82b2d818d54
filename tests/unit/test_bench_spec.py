"""`headrace bench spec`: turns with and without drafts, on the ledger."""

from pathlib import Path

import pytest
from rich.console import Console

from engine.bench import speculation
from engine.bench.config import SpecConfig, SpecTask
from engine.errors import StartupError
from engine.protocol import EngineInfo
from engine.spec.speculator import Speculator
from tests.helpers.drafting import AlwaysFull, Oracle, speculating_engine
from tests.helpers.fake_client import engine_info


@pytest.fixture
def info(monkeypatch: pytest.MonkeyPatch) -> EngineInfo:
    """An engine's whose tokens are the ledger's few."""
    short = [speculation.TaskText([1 + n, 2, 3], []) for n in range(8)]

    def stand_in(*arguments: object, **_: object) -> list[speculation.TaskText]:
        return short[: int(str(arguments[2]))]

    monkeypatch.setattr(speculation, "task_texts", stand_in)
    return engine_info(max_model_len=200, num_blocks=64, block_size=4)


def test_drafts_are_compared_with_none(info: EngineInfo) -> None:
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[Oracle(0.9)]))
    config = SpecConfig(batch_size=(1, 3), output_len=20, num_iters=2, num_iters_warmup=0)
    results = speculation.measure(engine, info, config)
    assert [result.batch_size for result in results] == [1, 3]
    assert all(result.same_texts == 1.0 for result in results)
    assert all(0.5 < result.acceptance <= 1.0 and result.draft_length > 1 for result in results)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(speculation.table(results, config))
    assert "speed-up" in captured.get()


def test_a_plot_is_written_and_a_bad_suffix_refused(info: EngineInfo, tmp_path: Path) -> None:
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[Oracle(0.9)]))
    config = SpecConfig(batch_size=(1, 2), output_len=8, num_iters=1, num_iters_warmup=0)
    results = speculation.measure(engine, info, config)
    speculation.write_plot(str(tmp_path / "speedup.png"), results, config)
    assert (tmp_path / "speedup.png").stat().st_size > 1000
    with pytest.raises(StartupError, match="cannot write the plot"):
        speculation.write_plot(str(tmp_path / "speedup.nothing"), results, config)


def test_an_engine_that_drafts_nothing_is_told_so(info: EngineInfo) -> None:
    engine, _ = speculating_engine(Speculator(4))
    with pytest.raises(StartupError, match="nothing was drafted"):
        speculation.measure(engine, info, SpecConfig(batch_size=(1,), output_len=8, num_iters=1, num_iters_warmup=0))


def test_a_prediction_needs_an_edit(info: EngineInfo) -> None:
    engine, _ = speculating_engine(Speculator(4))
    with pytest.raises(StartupError, match="--prediction is for --task edit"):
        speculation.measure(engine, info, SpecConfig(task=SpecTask.CHAT, prediction=True))


def test_texts_are_different_and_predictions_are_the_text_before_the_edit() -> None:
    from engine.bench.speculation_tasks import task_texts

    texts = task_texts(engine_info(), SpecTask.EDIT, 20, with_prediction=True)
    assert len({tuple(text.prompt_ids) for text in texts}) == 20
    for text in texts:
        joined = bytes(text.prompt_ids).decode()
        assert bytes(text.prediction_ids).decode() in joined
