"""The data_preparation of a job: which lines are trained on, the numbers of faults, and the files that it leaves."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.items import TrainingItem, read_rows
from engine.command_io.finetuning.job import Hyperparameters, JobFolder, TrainingMethod
from engine.config import EngineConfig
from server.finetuning import job_files, prepared_data
from server.finetuning.job_files import JobOrder
from server.finetuning.prepare_process import Faulty, Made, Outcome, PrepareTask, Refused, prepare_files
from server.finetuning.scores.model_steps import ModelSteps
from server.jobs.answers import AnswerBodies, BodyAnswer
from tests.helpers.data_lines import JUDGE, encoded, random_text, with_changes
from tests.helpers.tokenizers import byte_level_info

pytest.importorskip("rensa", reason="the extra 'data' is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = JobFolder(tmp_path / "out" / "job")
    made.path.mkdir(parents=True)
    made.tokenizer_info.write_bytes(msgspec.msgpack.encode(byte_level_info()))
    return made


def _prepare(
    folder: JobFolder,
    train: bytes,
    valid: bytes | None = None,
    against: bytes | None = None,
    method: TrainingMethod = TrainingMethod.SUPERVISED,
    answer: AnswerBodies | None = None,
    replay: float = 0.0,
    **options: Any,
) -> Outcome:
    contents = {"train": train, "valid": valid, "against": against}
    paths = {name: folder.out / name for name in contents}
    for name, content in contents.items():
        if content is not None:
            paths[name].write_bytes(content)
    order = JobOrder(
        engine=EngineConfig(model="tiny"),
        method=method,
        served_model="tiny",
        hyperparameters=Hyperparameters(max_length=4096, replay=replay, data_preparation=PreparationOptions(**options)),
    )
    task = PrepareTask(
        order=order,
        train=str(paths["train"]),
        valid=None if valid is None else str(paths["valid"]),
        against=[] if against is None else [("file-1", str(paths["against"]))],
    )
    return prepare_files(folder, task, answer)


def _row(seed: int, **fields: str) -> dict[str, str]:
    return {"prompt": f"question {seed}", "completion": random_text(seed), **fields}


ROWS = [_row(seed) for seed in range(12)]


def test_lines_that_fail_a_step_are_not_trained_on_and_the_rest_is_a_file(folder: JobFolder) -> None:
    near, leak, other = _row(3, completion=with_changes(random_text(3), 0.05)), _row(90), _row(91)
    train = encoded(*ROWS[:6], near, leak, _row(50, completion=" "), other, *ROWS[6:])
    outcome = _prepare(folder, train, encoded(leak), encoded(other))

    assert isinstance(outcome, Made)
    items = read_rows(folder.train, TrainingItem)
    assert [item.line for item in items] == [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16]
    assert folder.prepared.read_bytes() == encoded(*ROWS)
    counts = "near_duplicate 1, contaminated 2, chat_empty 1"
    assert outcome.report.data_summary == f"data preparation: 16 lines, removed 4 ({counts})"
    report = json.loads(folder.data_report.read_text())
    assert report["tokens"]["total"] == sum(item.num_tokens for item in items) == outcome.report.num_tokens
    assert report["num_trained_tokens"] == sum(item.num_trained for item in items)
    leaks = [(each["file"], each["line"]) for each in report["contaminated"]]
    assert leaks == [("validation_file", "8"), ("file-1", "10")]


def test_a_fault_after_removed_lines_has_the_number_of_its_own_line(folder: JobFolder) -> None:
    outcome = _prepare(folder, encoded(_row(1, completion=""), *ROWS, {"text": "for pretraining"}))
    assert isinstance(outcome, Faulty)
    assert [fault.line for fault in outcome.faults] == [14]
    outcome = _prepare(folder, encoded(*ROWS) + b"{\n")
    assert isinstance(outcome, Faulty)
    assert [fault.text for fault in outcome.faults] == [
        "line 13: this line is not valid JSON; each line must be a JSON object"
    ]


def test_a_file_that_needs_more_memory_than_there_is_fails_with_the_number_of_lines_that_fit(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_files.write_job, "__defaults__", ((), None, 20_000))
    outcome = _prepare(folder, encoded(*ROWS))
    assert isinstance(outcome, Faulty)
    assert "so about 6 lines fit" in outcome.faults[0].text


def test_faults_of_evaluation_files_name_them(folder: JobFolder) -> None:
    outcome = _prepare(folder, encoded(*ROWS), b"{\n")
    assert isinstance(outcome, Faulty)
    assert outcome.is_validation
    outcome = _prepare(folder, encoded(*ROWS), against=b"{\n")
    assert isinstance(outcome, Refused)
    assert outcome.param == "decontaminate_against"
    assert outcome.message.startswith("decontaminate_against: file-1, line 1: this line")
    outcome = _prepare(folder, b"[]\n" + encoded(*ROWS))
    assert isinstance(outcome, Faulty)
    assert [fault.line for fault in outcome.faults] == [1]


def test_too_many_removed_lines_fail_the_job_with_the_counts(folder: JobFolder) -> None:
    outcome = _prepare(folder, encoded(*ROWS[:5], *ROWS[:5]), max_removed=0.3)
    assert isinstance(outcome, Refused)
    assert outcome.param == "training_file"
    assert "5 of 10 lines were removed (duplicate 5); at most 30% may be" in outcome.message
    assert "report" not in outcome.message  # only jobs that train store theirs
    assert json.loads(folder.data_report.read_text())["num_lines"] == 10
    assert not folder.job.exists()


def test_a_plain_text_loses_its_paragraphs_and_stays_one_text(folder: JobFolder) -> None:
    parts = [random_text(seed) for seed in range(4)]
    text = "\n\n".join([*parts, parts[1]]) + "\n"
    outcome = _prepare(folder, text.encode(), method=TrainingMethod.PRETRAINING)
    assert isinstance(outcome, Made)
    assert folder.prepared.read_text() == "\n\n".join(parts) + "\n"
    assert outcome.report.num_lines == 1


def test_a_plain_text_that_then_starts_with_a_bracket_stays_a_text(folder: JobFolder) -> None:
    text = "short\n\n{" + random_text(2) + "\n\n" + random_text(3)
    options = {"quality": ("gopher_words",), "max_removed": 0.9}

    assert isinstance(_prepare(folder, text.encode(), method=TrainingMethod.PRETRAINING, **options), Made)

    assert json.loads(folder.prepared.read_bytes()) == {"text": text.removeprefix("short\n\n")}


def test_masked_data_is_not_trained_on(folder: JobFolder) -> None:
    outcome = _prepare(folder, encoded(*ROWS, _row(60, completion="Ask ann@example.com.")), mask_pii=True)
    assert isinstance(outcome, Made)
    assert outcome.report.data_summary.endswith("; masked mail 1")
    assert "ann@" not in folder.prepared.read_text() + folder.data_report.read_text()


LETTERS = [{"prompt": "Which?", "completion": 6 * letter} for letter in "jdbacefghikm"]


class Model:
    """Finds letters likely by their place in the alphabet. failing: requests after which it fails."""

    def __init__(self, failing: int = 1000) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._failing = failing

    async def __call__(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
        if len(self.bodies) >= self._failing:
            raise OSError(28, "No space left on device")
        self.bodies += bodies
        return [BodyAnswer("", 200, msgspec.json.encode(self._answer(path, body))) for body in bodies]

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert body["model"] == "tiny"
        if path == "/v1/chat/completions":
            content = body["messages"][0]["content"]
            return {"choices": [{"message": {"content": "2" if "aaa" in content else "8"}}]}
        assert path == "/v1/completions"
        ids = body["prompt"][0]
        scores = [None, *({str(token): {"logprob": -(token % 32) / 10}} for token in ids[1:])]
        return {"choices": [{"prompt_logprobs": scores}]}


def test_lines_are_scored_and_judged_by_the_served_model(folder: JobFolder) -> None:
    model = Model()
    options = {"quality": (), "max_perplexity": "p90", "judge": JUDGE, "min_score": 5.0}
    outcome = _prepare(folder, encoded(*LETTERS), answer=model, **options)
    assert isinstance(outcome, Made)
    counts = "perplexity 1, judge 1"
    assert outcome.report.data_summary == f"data preparation: 12 lines, removed 2 ({counts})"
    assert [json.loads(line)["completion"][0] for line in folder.prepared.read_text().splitlines()] == [*"jdbcefghik"]
    report = json.loads(folder.data_report.read_text())
    assert {name: each["num"] for name, each in report["scores"].items()} == {"perplexity": 12, "ifd": 12, "judge": 11}
    assert len(model.bodies) == 2 * 12 + 11


def test_a_preparation_that_starts_again_asks_only_what_was_not_answered(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_data, "ModelSteps", partial(ModelSteps, max_lines=5))
    stopped, model = Model(failing=20), Model()
    assert _prepare(folder, encoded(*LETTERS), answer=stopped, quality=(), max_ifd="p90") == Refused(
        "the files cannot be prepared: No space left on device", is_passing=True
    )
    with folder.answered.open("ab") as file:
        file.write(b'\n{"key": "a line that')  # a crash cut it
    outcome = _prepare(folder, encoded(*LETTERS), answer=model, quality=(), max_ifd="p90")
    assert isinstance(outcome, Made)
    assert (len(stopped.bodies), len(model.bodies)) == (20, 4)
    before = folder.prepared.read_bytes(), folder.data_report.read_bytes()
    folder.answered.unlink()
    _prepare(folder, encoded(*LETTERS), answer=Model(), quality=(), max_ifd="p90")
    assert (folder.prepared.read_bytes(), folder.data_report.read_bytes()) == before


@pytest.mark.parametrize("judge", [JUDGE, {"type": "multi", "graders": {"good": JUDGE}, "calculate_output": "good"}])
def test_a_line_that_is_too_long_for_the_judge_is_removed_and_counted(folder: JobFolder, judge: dict[str, Any]) -> None:
    code = "context_length_exceeded"

    async def refuses_the_third(_path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
        body = json.dumps({"error": {"message": "the prompt has 65 tokens; shorten it", "code": code}}).encode()
        answer = BodyAnswer("", 200, b'{"choices": [{"message": {"content": "8"}}]}')
        return [BodyAnswer("", 400, body) if "bbb" in each["messages"][0]["content"] else answer for each in bodies]

    options: dict[str, Any] = {"quality": (), "judge": judge, "min_score": 5.0}
    assert isinstance(_prepare(folder, encoded(*LETTERS), answer=refuses_the_third, **options), Made)
    report = json.loads(folder.data_report.read_text())
    removed = report["removed"]["judge_too_long"]
    assert (removed["num"], removed["num_judged"], removed["lines"]) == (1, 12, ["3"])
    assert removed["examples"][0]["detail"] == "the prompt has 65 tokens; shorten it"
    assert report["scores"]["judge"]["num"] == 11

    code = "model_not_found"
    folder.answered.unlink()
    outcome = _prepare(folder, encoded(*LETTERS), answer=refuses_the_third, **options)
    assert outcome == Refused("line 3 cannot be judged: the prompt has 65 tokens; shorten it")


def test_a_judge_of_a_field_that_lines_lack_is_refused_with_their_numbers(folder: JobFolder) -> None:
    content = "{{item.metadata.tone}} {{sample.output_text}}"
    judge = {**JUDGE, "input": [{"role": "user", "content": content}]}
    lines = [{**line, "metadata": {"tone": "kind"}} if number == 2 else line for number, line in enumerate(LETTERS, 1)]
    model = Model()
    outcome = _prepare(folder, encoded(*lines), answer=model, quality=(), judge=judge, min_score=0.0)
    assert isinstance(outcome, Faulty)
    assert [fault.line for fault in outcome.faults] == [1, *range(3, 13)]
    assert "reads {{item.metadata.tone}}, which this line does not have; add it" in outcome.faults[0].message


def test_models_that_fail_and_lines_that_cannot_be_scored_fail_the_job(folder: JobFolder) -> None:
    async def refuses(_path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
        return [BodyAnswer("", 404, b'{"error": {"message": "there is no model tiny"}}') for _ in bodies]

    outcome = _prepare(folder, encoded(*LETTERS), answer=refuses, quality=(), max_perplexity="2")
    assert outcome == Refused("line 1 cannot be scored: there is no model tiny")
    long = {"prompt": "x" * 5000, "completion": "y"}
    outcome = _prepare(folder, encoded(*LETTERS, long), answer=Model(), quality=(), max_perplexity="p90")
    assert isinstance(outcome, Faulty)
    assert [fault.line for fault in outcome.faults] == [13]
    outcome = _prepare(folder, encoded(*LETTERS), answer=Model(), quality=(), max_perplexity="p10")
    assert isinstance(outcome, Refused)
    assert "10 of 12 lines were removed (perplexity 10)" in outcome.message
    assert json.loads(folder.data_report.read_text())["removed"]["perplexity"]["num"] == 10


def test_a_line_longer_than_the_context_is_scored_up_to_its_last_token(folder: JobFolder) -> None:
    model = Model()
    folder.context.write_text("50")
    long = {"prompt": "Which?", "completion": 60 * "x"}
    assert isinstance(_prepare(folder, encoded(*LETTERS, long), answer=model, quality=(), max_perplexity="9"), Made)
    assert max(len(body["prompt"][0]) for body in model.bodies) == 50


def test_a_replay_that_the_model_cannot_have_is_refused_before_a_line_is_scored(folder: JobFolder) -> None:
    model = Model()
    outcome = _prepare(folder, encoded(*LETTERS), answer=model, replay=0.1, quality=(), max_perplexity="p90")
    assert isinstance(outcome, Refused)
    assert "the model has no chat template to ask questions with" in outcome.message
    assert model.bodies == []


def test_paragraphs_of_a_plain_text_are_scored(folder: JobFolder) -> None:
    text = "\n\n".join(6 * letter for letter in "dbjac")
    options = {"quality": (), "dedup": "none", "max_perplexity": "p80"}
    outcome = _prepare(folder, text.encode(), method=TrainingMethod.PRETRAINING, answer=Model(), **options)
    assert isinstance(outcome, Made)
    assert folder.prepared.read_text().split() == ["dddddd", "bbbbbb", "aaaaaa", "cccccc"]
