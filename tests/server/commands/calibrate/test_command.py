"""`headrace calibrate` with a fake engine: what it answers, fits, writes and reports."""

import json
import math
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from engine.child_processes.log_format import FORM_VARIABLE
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.protocol import EngineRequest, FinishReason, RequestOutput, TokenLogprobs
from server.calibration.calibration import Platt, Temperature
from server.calibration.files import read_calibration, write_calibration
from server.commands.alone import run_alone
from server.commands.calibrate.answering import RowResults
from server.commands.calibrate.command import run
from server.commands.calibrate.report import report_text
from server.config.server import ServerConfig
from server.context import ServerContext
from tests.helpers.calibrations import calibration
from tests.helpers.fake_client import MODEL, FakeClient, Step, engine_info, make_app, pooling_client

pytestmark = pytest.mark.fast

PREDICATE = {"type": "predicate", "name": "afloat", "instructions": "It floats."}
SCORE = {"type": "score", "instructions": "", "levels": [{"label": "dry"}, {"label": "wet"}]}


def _sure(request: EngineRequest) -> list[Step]:
    """A model that is sure that rafts float and stones do not. A mill has labels that are all unlikely."""
    prompt = bytes(each for each in request.prompt_ids if each < 256)
    yes = 0.98 if b"raft" in prompt else 0.02
    scale = 1e-6 if b"mill" in prompt else 1.0
    shares = {"y": yes, "n": 1 - yes, "d": 0.5, "w": 0.5}
    is_first = request.prompt_ids[-1] == ord("\n")
    row = [
        (each, math.log(scale * shares.get(chr(each), 1e-9)) if is_first else 0.0)
        for each in request.sampling.logprob_token_ids
    ]
    scores = TokenLogprobs(0, row[0][1], row)
    return [RequestOutput(id=request.id, new_ids=[0], logprobs=[scores], finish_reason=FinishReason.LENGTH)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClient:
    """The engine of the command; whose log stays as it is."""
    client = FakeClient(_sure, engine_info(max_model_len=1000, calibration_folder=str(tmp_path / "cache")))
    _use(client, monkeypatch)
    return client


def _use(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_alone(*arguments: Any, remedy: str) -> Any:
        assert remedy
        work: Callable[[ServerContext], Coroutine[Any, Any, Any]] = arguments[-1]
        return await work(make_app(client, served_model_name=("tiny",)).state.context)

    monkeypatch.setattr("server.commands.calibrate.command.run_alone", run_alone)
    monkeypatch.setattr("server.commands.calibrate.command.configure_logging", lambda *_: None)
    monkeypatch.setenv(FORM_VARIABLE, "text")


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    def write(num: int, *more: Any, questions: Any = (PREDICATE, SCORE)) -> str:
        """Rafts float in three of four cases, stones in one of four."""
        lines = [
            {
                "body": {"model": "any", "input": f"{'A raft' if n % 2 else 'A stone'} {n}.", "questions": questions},
                "answers": [(n % 2 == 1) == (n // 2 % 4 != 0), None],
            }
            for n in range(num)
        ]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))
        return str(path)

    return write


def test_sure_answers_become_as_sure_as_they_are_right(
    rows: Callable[..., str], fake: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mill = {"body": {"input": "A mill.", "questions": [PREDICATE]}, "answers": [True]}
    assert run([MODEL, rows(240, mill)]) == 0
    (path,) = (tmp_path / "cache").iterdir()
    found = read_calibration(path)
    assert (found.model, found.adapter, [*found.kinds]) == ("tiny", None, ["predicate"])
    predicate = found.kinds["predicate"]
    assert predicate.overall.num_answers == predicate.by_name["afloat"].num_answers == 240
    assert isinstance(predicate.overall.fit, Platt)
    assert found.apply("predicate", "afloat", [0.98, 0.02])[0] == pytest.approx(0.75, abs=0.01)
    assert predicate.overall.before.calibration_error == pytest.approx(0.23, abs=0.001)
    assert predicate.overall.after.calibration_error < 0.05
    shown = capsys.readouterr().out
    assert re.search(r"^predicate +240 +0\.750 > 0\.750 .* 0\.230 > 0\.0\d\d +\d\.\d\d, [+-]0\.\d\d$", shown, re.M)
    assert re.search(r"^  afloat +240", shown, re.M)
    assert "1 answer left out: the model refuses" in shown
    assert f"written to {path}" in shown
    assert fake.num_open == 0


def test_lines_that_cannot_be_answered_are_left_out_and_reported(
    rows: Callable[..., str], fake: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"body": {"input": "x" * 2000, "questions": [PREDICATE]}, "answers": [True]}
    assert run([MODEL, rows(60, long)]) == 3
    shown = capsys.readouterr().out
    assert re.search(r"1 line left out, since there is no answer:\n  line 61: .*the model takes 1000", shown)
    assert fake.requests


def test_a_second_run_keeps_the_kinds_that_it_does_not_fit(
    rows: Callable[..., str],
    fake: FakeClient,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run([MODEL, rows(60)]) == 0
    assert "kept" not in capsys.readouterr().out
    (path,) = (tmp_path / "cache").iterdir()
    first = read_calibration(path)
    more = msgspec.structs.replace(first, kinds={**first.kinds, **calibration(score=Temperature(3.0)).kinds})
    write_calibration(more, path.parent)
    _use(FakeClient(_sure, fake.info), monkeypatch)
    assert run([MODEL, rows(80)]) == 0
    assert "kept from the calibration before: score\n" in capsys.readouterr().out
    second = read_calibration(path)
    assert second.kinds["score"] == more.kinds["score"]
    assert second.kinds["predicate"].overall.num_answers == 80


async def test_no_engine_is_left_if_the_application_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = AsyncMock(context=None, clients={})
    monkeypatch.setattr("server.commands.alone.OneEngine", lambda *_: engines)
    monkeypatch.setattr("server.commands.alone.catch_signals", lambda: None)
    monkeypatch.setattr("server.app.create_app", Mock(side_effect=OptionError("no")))
    with pytest.raises(OptionError):
        await run_alone(ServerConfig(), EngineConfig(MODEL), Mock(), 0.0, AsyncMock(), remedy="")
    engines.stop.assert_awaited_once()


@pytest.mark.parametrize(
    ("num", "answer", "reason"),
    [(49, True, "predicate: 49 known answers are too few"), (1, None, "all answers are null")],
)
def test_too_few_answers_are_refused_before_any_is_computed(
    rows: Callable[..., str], fake: FakeClient, num: int, answer: bool | None, reason: str
) -> None:
    more = {"body": {"input": "A mill.", "questions": [PREDICATE]}, "answers": [answer]}
    with pytest.raises(OptionError, match=rf"nothing was computed:\s+{reason}"):
        run([MODEL, rows(num - 1, more)])
    assert not fake.requests


def test_too_few_answers_of_one_kind_are_reported_before_and_after(
    rows: Callable[..., str], fake: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = {"body": {"input": "A mill.", "questions": [SCORE]}, "answers": [1]}
    assert run([MODEL, rows(60, scored)]) == 0
    shown = capsys.readouterr()
    assert "score will not be calibrated: 1 known answers are too few" in shown.err
    assert "left out: the model refuses" in shown.out
    assert fake.requests


def test_answers_that_the_model_refuses_may_leave_too_few(
    rows: Callable[..., str], fake: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {"body": {"input": "A mill.", "questions": [PREDICATE]}, "answers": [True]}
    with pytest.raises(StartupError, match="too few answers are known"):
        run([MODEL, rows(49, refused)])
    assert fake.requests
    assert "predicate: not calibrated: 49 known answers are too few" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_a_model_without_decisions_is_refused(rows: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    _use(pooling_client(), monkeypatch)
    with pytest.raises(StartupError, match="does not answer decisions"):
        run([MODEL, rows(60)])


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: MODEL, ROWS"),
        (["m", "r", "--port", "1"], "unknown option --port"),
        (["m", "r", "--lora-modules", "a=b", "--lora-modules", "c=d"], "several adapters"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(arguments)


def test_fits_that_tell_nothing_are_reported() -> None:
    fits = {"predicate": Platt(-0.5, 0.0), "choice": Temperature(99.9), "score": Temperature(3.0)}
    shown = report_text(calibration(**fits), {}, RowResults())
    assert "predicate: the slope is not above 0" in shown
    assert "choice: the temperature is at its limit" in shown
    assert "score: the" not in shown
    assert "not stored" not in shown


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("is_stored", [True, False])
def test_a_fit_that_turns_answers_around_is_stored_only_if_told_to(
    is_stored: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [
        {
            "body": {"input": f"A {'raft' if number % 2 else 'stone'} {number}.", "questions": [PREDICATE]},
            "answers": [not number % 2],
        }
        for number in range(60)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if is_stored:
        assert run([MODEL, str(rows), "--store-doubtful"]) == 0
    else:
        with pytest.raises(StartupError, match="nothing was stored"):
            run([MODEL, str(rows)])
    shown = capsys.readouterr().out
    assert "predicate: the slope is not above 0" in shown
    assert ("not stored (--store-doubtful)" in shown) is not is_stored
    assert len(list(tmp_path.glob("cache/*"))) == is_stored
