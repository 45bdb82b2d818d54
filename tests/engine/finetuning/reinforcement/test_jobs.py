"""Whole jobs of reinforcement on a tiny model: the reward rises, and they go on to the last bit after a stop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from engine.command_io.finetuning.events import JobEvent, parse_events
from engine.command_io.finetuning.graders.definitions import GraderType
from engine.command_io.finetuning.graders.faults import FaultKind, GradingFault
from engine.command_io.finetuning.graders.grading import Grade, PartGrade
from engine.command_io.finetuning.items import GradedPrompt, Passage, write_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, Order, TrainingMethod
from engine.config import DType, EngineConfig
from engine.errors import NotEnoughMemory, StartupError
from engine.finetuning import memory, trainer
from engine.finetuning.reinforcement import setup
from engine.finetuning.reinforcement import task as reinforcement_task
from engine.finetuning.run import train
from models.kernels.cpu.library import set_num_threads
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, random_model

# Half of the untrained model's answers have a token with the digit 7 in its name.
SEVEN = {
    "type": "string_check",
    "name": "seven",
    "operation": "like",
    "input": "{{sample.output_text}}",
    "reference": "{{item.wanted}}",
}
BRIEF = Hyperparameters(n_epochs=2, batch_size=4, lora_rank=4, group_size=6, max_completion_tokens=4)
END = 9
PROMPTS = [Passage([5 + number, 6, 7]) for number in range(8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(llama_config()).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    set_num_threads(before)


def _prompt(seed: int, length: int = 20) -> GradedPrompt:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, VOCAB_SIZE, (length,), generator=generator).tolist()
    return GradedPrompt(ids, {"wanted": "7"}, seed)


def _job(
    model: Path, where: Path, given: Hyperparameters = BRIEF, grader: dict[str, Any] | None = None, num_valid: int = 0
) -> JobFolder:
    folder = JobFolder(where / "job")
    folder.path.mkdir(parents=True)
    words = tokenizers.models.WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w5")
    tokenizers.Tokenizer(words).save(str(folder.path / "tokenizer.json"))
    write_rows(folder.train, [_prompt(seed) for seed in range(12)])
    write_rows(folder.valid, [_prompt(seed) for seed in range(100, 100 + num_valid)])
    job = FinetuningJob(
        engine=EngineConfig(model=str(model), dtype=DType.FLOAT32, weight_cache=False, threads=1),
        method=TrainingMethod.REINFORCEMENT,
        hyperparameters=given,
        seed=3,
        end_ids=[END],
        grader=grader or SEVEN,
    )
    folder.job.write_bytes(msgspec.json.encode(job))
    return folder


def _run(folder: JobFolder) -> None:
    train(folder, lambda *_: None)


def _adapter(folder: JobFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.out / "adapter_model.safetensors")


def _steps(folder: JobFolder) -> list[dict[str, Any]]:
    return [event.data for event in parse_events(folder.events.read_bytes()) if event.kind == "metrics"]


def _events(folder: JobFolder) -> list[JobEvent]:
    return [event for event in parse_events(folder.events.read_bytes()) if event.kind == "message"]


def test_the_reward_rises_on_prompts_that_were_not_seen(model: Path, tmp_path: Path) -> None:
    given = msgspec.structs.replace(BRIEF, n_epochs=8, group_size=8, learning_rate_multiplier=100.0, warmup_ratio=0.0)
    folder = _job(model, tmp_path, given, num_valid=8)
    _run(folder)

    rewards = [step["train_mean_reward"] for step in _steps(folder)]
    assert len(rewards) == 24
    assert rewards[0] < 0.75
    assert sum(rewards[-4:]) / 4 > 0.8
    (line,) = (event for event in _events(folder) if event.message.startswith("Before and after"))
    assert line.data["before"]["valid_reward"] < 0.65
    assert line.data["after"]["valid_reward"] > 0.8


def test_a_job_that_was_stopped_goes_on_to_the_last_bit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)  # after each step
    given = msgspec.structs.replace(BRIEF, eval_interval=2, kl_weight=0.1)
    whole, stopped = (_job(model, tmp_path / name, given, num_valid=3) for name in ("whole", "stopped"))
    for folder in (whole, stopped):
        write_rows(folder.prompts, PROMPTS)
    _run(whole)

    class Stop(Exception):
        pass

    def sample(*_: Any, **__: Any) -> Any:
        raise Stop

    for last in (1, 2, 4):  # within an epoch, at its end, and in the last one

        def progress(stage: str, done: int, total: int, unit: str, last: int = last) -> None:  # noqa: ARG001
            if stage == "train" and done == last + 1:
                raise Stop

        with pytest.raises(Stop):
            train(stopped, progress)
    with monkeypatch.context() as patch:
        patch.setattr("engine.finetuning.reinforcement.rollouts.generate", sample)
        with pytest.raises(Stop):
            _run(stopped)
    _run(stopped)

    assert all(torch.equal(tensor, _adapter(stopped)[name]) for name, tensor in _adapter(whole).items())
    assert whole.results.read_text() == stopped.results.read_text()
    assert any("Continuing after step" in event.message for event in _events(stopped))


def test_events_and_results_have_openais_names(model: Path, tmp_path: Path) -> None:
    folder = _job(model, tmp_path, msgspec.structs.replace(BRIEF, eval_interval=2, kl_weight=0.1), num_valid=3)
    write_rows(folder.prompts, PROMPTS)
    _run(folder)

    steps = _steps(folder)
    assert [("full_valid_mean_reward" in step) for step in steps] == [False, True, True, True, False, True]
    first = steps[0]
    assert first["scores"]["train_reward_mean"] == first["train_mean_reward"]
    assert first["scores"]["graders"] == [
        {"name": "seven", "type": "string_check", "train_reward_mean": first["train_mean_reward"]}
    ]
    assert first["errors"]["graders"][0]["train_sample_parse_error_count"] == 0
    assert first["usage"]["samples"]["train_completion_tokens_mean"] == first["completion_tokens_mean"] <= 4
    assert 0 < first["mean_unresponsive_rewards"] <= 1
    assert first["groups"] == 4
    assert first["timing"]["step"].keys() == {"sampling", "grading", "training"}
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert steps[-1]["kl"] > 0
    best, worst = first["samples"]
    assert (best["reward"], worst["reward"]) == (1.0, 0.0)
    assert "7" in best["text"]
    assert "7" not in worst["text"]
    rows = [row.split(",") for row in folder.results.read_text().splitlines()]
    assert rows[0] == [
        *("step", "train_mean_reward", "full_valid_mean_reward"),
        *("completion_tokens_mean", "mean_unresponsive_rewards"),
    ]
    assert [bool(row[2]) for row in rows[1:]] == [False, True, True, True, False, True]
    ends = [event.data for event in _events(folder) if "checkpoint" in event.data]
    assert [end["step"] for end in ends] == [3, 6]
    assert ends[-1]["train_mean_reward"] == pytest.approx(sum(step["train_mean_reward"] for step in steps[3:]) / 3)
    assert ends[-1].keys() >= {"full_valid_mean_reward", "completion_tokens_mean", "general_divergence"}
    (complete,) = (event.data for event in _events(folder) if "trained_tokens" in event.data)
    answers = sum(step["usage"]["samples"]["train_completion_tokens_count"] for step in steps)
    assert complete["trained_tokens"] == 2 * 12 * 6 * 20 + answers


def test_a_job_ends_early_with_the_adapter_of_the_best_reward(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = iter([0.1, 0.5, 0.4, 0.4, 0.5])  # before, and after each epoch until it ends; of the best adapter again
    monkeypatch.setattr(reinforcement_task.ReinforcementTask, "_mean_reward", lambda *_: next(rewards))
    folder = _job(model, tmp_path, msgspec.structs.replace(BRIEF, n_epochs=9, early_stopping=2), num_valid=1)
    _run(folder)

    best = load_file(folder.out / "checkpoints" / "step-3" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, best[name]) for name, tensor in _adapter(folder).items())
    assert any("step 3, with a mean reward of 0.5000" in event.message for event in _events(folder))
    assert len(_steps(folder)) == 9


def test_rewards_that_are_all_the_same_change_nothing(model: Path, tmp_path: Path) -> None:
    folder = _job(model, tmp_path, grader={**SEVEN, "reference": "nowhere"})
    _run(folder)

    assert [step["groups_without_signal"] for step in _steps(folder)] == [4] * 6
    assert [step["tokens"] for step in _steps(folder)] == [0] * 6
    assert not any(tensor.any() for name, tensor in _adapter(folder).items() if "lora_B" in name)
    warned = [event.message for event in _events(folder) if event.level == "warn"]
    assert [warning.partition(",")[0] for warning in warned if "the same reward" in warning] == ["In 5 steps"]


def test_a_curriculum_begins_with_prompts_that_the_base_answers_well(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    sample = setup.RolloutSampler.sample

    def counted(self: Any, prompts: Any, *others: Any) -> Any:
        asked.extend(prompt.line for prompt in prompts)
        return sample(self, prompts, *others)

    monkeypatch.setattr(setup.RolloutSampler, "sample", counted)
    folder = _job(model, tmp_path, msgspec.structs.replace(BRIEF, n_epochs=1, order=Order.DIFFICULTY))
    wanted = ("nowhere", "w")
    prompts = [GradedPrompt(_prompt(seed).ids, {"wanted": wanted[seed % 2]}, seed) for seed in range(12)]
    write_rows(folder.train, prompts)
    _run(folder)

    assert asked[:12] == list(range(12))  # rated one by one
    assert {line % 2 for line in asked[12:16]} == {1}  # every answer has a w


def test_answers_of_which_the_grading_model_could_not_be_asked_are_left_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = GradingFault(FaultKind.MODEL_SERVER, "the model is not there")

    def grade_all(grader: Any, pairs: Any, ask_all: Any) -> list[Grade]:  # noqa: ARG001
        return [Grade(PartGrade("", "judge", "score_model", 0.0, fault)) for _ in pairs]  # type: ignore[arg-type]

    monkeypatch.setattr(setup, "grade_all", grade_all)
    folder = _job(model, tmp_path)
    with pytest.raises(StartupError, match="no answer of 3 steps could be graded: the model is not there"):
        _run(folder)

    first, second = _steps(folder)
    assert first["train_mean_reward"] is None
    assert second["errors"]["graders"][0]["train_model_grader_server_error_count"] == 24


TWO_STEPS = msgspec.structs.replace(BRIEF, n_epochs=1, batch_size=6)
SERVER_FAULT = GradingFault(FaultKind.MODEL_SERVER, "the model is not there")


def _grades(monkeypatch: pytest.MonkeyPatch, *steps: tuple[float, GradingFault | None]) -> None:
    """What all answers of each step get, in the order in which steps are graded."""
    left = iter(steps)

    def grade_all(grader: Any, pairs: Any, ask_all: Any) -> list[Grade]:  # noqa: ARG001
        reward, fault = next(left)
        return [Grade(PartGrade("", "judge", GraderType.SCORE_MODEL, reward, fault)) for _ in pairs]

    monkeypatch.setattr(setup, "grade_all", grade_all)


def _warnings(folder: JobFolder) -> list[str]:
    return [event.message for event in _events(folder) if event.level == "warn"]


def _stop_after_a_step(folder: JobFolder) -> None:
    class Stop(Exception):
        pass

    def progress(stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG001
        if stage == "train" and done == 2:  # the first step's state is saved
            raise Stop

    with pytest.raises(Stop):
        train(folder, progress)


@pytest.mark.parametrize(("batch_size", "steps"), [(12, "1 step"), (6, "2 steps")])
def test_a_short_job_of_which_no_answer_could_be_graded_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, steps: str
) -> None:
    folder = _job(model, tmp_path, msgspec.structs.replace(TWO_STEPS, batch_size=batch_size))
    _grades(monkeypatch, (0.0, SERVER_FAULT), (0.0, SERVER_FAULT))
    with pytest.raises(StartupError, match=f"no answer of {steps} could be graded: the model is not there"):
        _run(folder)
    assert not folder.out.joinpath("adapter_model.safetensors").exists()

    _grades(monkeypatch, (0.5, None), (0.5, None))  # the grading model is there again
    _run(folder)
    assert _steps(folder)[-1]["train_mean_reward"] == 0.5


@pytest.mark.parametrize("graded_first", [True, False])
def test_a_job_that_goes_on_knows_whether_answers_could_be_graded_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graded_first: bool
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)  # after each step
    folder = _job(model, tmp_path, msgspec.structs.replace(TWO_STEPS, batch_size=4))
    failed = (0.0, SERVER_FAULT)
    _grades(monkeypatch, (0.5, None) if graded_first else failed, failed)
    _stop_after_a_step(folder)
    _grades(monkeypatch, failed, failed)
    if graded_first:
        _run(folder)
        assert any("the same reward" in warning for warning in _warnings(folder))
    else:
        with pytest.raises(StartupError, match="no answer of 3 steps could be graded"):
            _run(folder)


def test_the_first_step_without_a_grade_is_warned_of_with_the_reason(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = GradingFault(FaultKind.INVALID_VARIABLE, "there is no {{item.answer}}")
    folder = _job(model, tmp_path, msgspec.structs.replace(TWO_STEPS, batch_size=4))
    _grades(monkeypatch, (0.5, None), (0.0, fault), (0.0, fault))
    _run(folder)

    found = [warning for warning in _warnings(folder) if "answers of step" in warning]
    assert found == [
        "All 24 answers of step 2 have the reward 0 (24 invalid_variable_error): there is no {{item.answer}}"
    ]


def test_a_short_job_in_which_nothing_was_learned_ends_with_a_warning(model: Path, tmp_path: Path) -> None:
    folder = _job(model, tmp_path, TWO_STEPS, grader={**SEVEN, "reference": "nowhere"})
    _run(folder)

    (warning,) = _warnings(folder)
    assert warning.startswith("In 2 steps, which are all of the job, all answers to a prompt had the same reward")


def test_a_short_job_that_learned_ends_without_a_warning(model: Path, tmp_path: Path) -> None:
    folder = _job(model, tmp_path, TWO_STEPS)
    _run(folder)
    assert not _warnings(folder)


def test_a_job_that_ends_early_is_warned_of_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reinforcement_task.ReinforcementTask, "_mean_reward", lambda *_: 0.5)
    given = msgspec.structs.replace(BRIEF, n_epochs=9, batch_size=12, early_stopping=1)
    folder = _job(model, tmp_path, given, grader={**SEVEN, "reference": "nowhere"}, num_valid=1)
    _run(folder)

    (warning,) = _warnings(folder)
    assert warning.startswith("In 2 steps, which are all of the job")


def test_memory_is_that_of_the_answers_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "obtainable_memory_bytes", lambda _: 200 << 20)
    folder = _job(model, tmp_path, msgspec.structs.replace(BRIEF, max_completion_tokens=200, group_size=32))
    with pytest.raises(NotEnoughMemory, match=r"to generate 64 answers.*lower --max-completion-tokens"):
        _run(folder)


def test_memory_is_that_of_as_many_answers_as_are_computed_together(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def note(decoder: Any, lora: Any, num_tokens: int, **more: Any) -> None:  # noqa: ARG001
        counted.append(num_tokens)
        raise NotEnoughMemory("enough is known")

    monkeypatch.setattr(setup, "check_memory", note)
    for number, group_size in enumerate((3, 128)):
        folder = _job(model, tmp_path / str(number), msgspec.structs.replace(BRIEF, group_size=group_size))
        with pytest.raises(NotEnoughMemory):
            _run(folder)
    assert counted == [4 * 3 * (20 + 4), 1024]


def test_an_answer_that_the_models_positions_leave_no_room_for_is_refused(model: Path, tmp_path: Path) -> None:
    folder = _job(model, tmp_path, msgspec.structs.replace(BRIEF, max_completion_tokens=240))
    with pytest.raises(StartupError, match=r"has 260 tokens; this model takes 256; give --max-completion-tokens"):
        _run(folder)


def test_a_job_without_a_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    folder = _job(model, tmp_path)
    (folder.path / "tokenizer.json").unlink()
    with pytest.raises(StartupError, match=r"has no tokenizer\.json"):
        _run(folder)
