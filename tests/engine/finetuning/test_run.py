"""Whole jobs on a tiny model: they learn, end early, and go on to the last bit wherever they were stopped."""

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from engine.command_io.finetuning import auto
from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.items import Passage, SamplePrompt, TrainingItem, write_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, Order, Pacing, TrainingMethod
from engine.config import DType, EngineConfig
from engine.errors import NotEnoughMemory, StartupError
from engine.finetuning import memory, trainer
from engine.finetuning.examples import task as example_task
from engine.finetuning.loss.objective import StepLoss
from engine.finetuning.run import train
from models.attention.reference import ReferenceAttention
from models.families.registry import family_of
from models.kernels.cpu.library import set_num_threads
from models.system.cores import allowed_cpus
from models.training.adapter_file import save_adapter
from models.training.attention import TrainAttention
from models.training.lora import Lora, LoraShape
from server.schemas.finetuning_answers import CheckpointMetrics
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, load_folder, random_model

QUICK = Hyperparameters(n_epochs=3, batch_size=4, lora_rank=4)
PROMPTS = [Passage([5 + number, 6, 7]) for number in range(8)]
THOROUGH = Hyperparameters(n_epochs=8, batch_size=4, lora_rank=4, learning_rate_multiplier=50.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(llama_config()).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Jobs have one: several would wait for each other at every operator, longer than these take."""
    before = torch.get_num_threads()
    yield
    set_num_threads(before)


@dataclasses.dataclass
class Job:
    folder: JobFolder
    out: Path

    def events(self, kind: str = "message") -> list[str]:
        return [event.message for event in parse_events(self.folder.events.read_bytes()) if event.kind == kind]

    def adapter(self) -> dict[str, torch.Tensor]:
        return load_file(self.out / "adapter_model.safetensors")


def _item(seed: int, line: int = 0) -> TrainingItem:
    """An answer of three tokens that follow from the question's first."""
    generator = torch.Generator().manual_seed(seed)
    question = torch.randint(3, VOCAB_SIZE, (6,), generator=generator).tolist()
    return TrainingItem([Passage([*question, 7, 8, 9], [(6, 9)])], line)


def _pair(seed: int) -> TrainingItem:
    question = _item(seed).passages[0].ids[:6]
    return TrainingItem([Passage([*question, 7, 8], [(6, 8)]), Passage([*question, 9, 10, 11], [(6, 9)])])


def _job(
    model: Path,
    where: Path,
    hyperparameters: Hyperparameters = QUICK,
    method: TrainingMethod = TrainingMethod.SUPERVISED,
) -> Job:
    folder = JobFolder(where / "job")
    folder.path.mkdir(parents=True)
    engine = EngineConfig(model=str(model), dtype=DType.FLOAT32, weight_cache=False, threads=1)
    made = _pair if method is TrainingMethod.DPO else _item
    write_rows(folder.train, [made(seed) for seed in range(12)])
    write_rows(folder.valid, [made(seed) for seed in range(100, 104)])
    write_rows(folder.samples, [SamplePrompt(_item(100).passages[0].ids[:6], "Why?")])
    job = FinetuningJob(engine=engine, method=method, hyperparameters=hyperparameters, seed=3, end_ids=[9])
    folder.job.write_bytes(msgspec.json.encode(job))
    return Job(folder, where)


def _run(job: Job) -> None:
    train(job.folder, lambda *_: None)


def test_a_job_learns_and_leaves_its_results(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, THOROUGH)
    write_rows(job.folder.prompts, [Passage([5, 6, 7]), Passage([8, 9])])
    _run(job)

    rows = job.folder.results.read_text().splitlines()
    first, last = (row.split(",") for row in (rows[1], rows[-1]))
    assert len(rows) == 1 + 8 * 3  # 12 examples, by 4
    assert float(last[1]) < float(first[1]) / 2
    assert float(last[3]) < 3  # validation; log 128 is 4.9
    assert len(job.events("metrics")) == 24
    assert any(message.startswith("Sample 1: Why? -> ") for message in job.events())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {f"step-{3 * n}" for n in range(1, 9)}
    samples = [event.data for event in parse_events(job.folder.events.read_bytes()) if "sample" in event.data]
    assert samples[-1]["token_ids"]
    assert samples[-1]["question"] == "Why?"
    ends = [event.data for event in parse_events(job.folder.events.read_bytes()) if "checkpoint" in event.data]
    accuracies = [float(row.split(",")[2]) for row in rows[-3:]]
    assert math.isclose(ends[-1]["train_mean_token_accuracy"], sum(accuracies) / 3, abs_tol=1e-4)
    assert {"epoch", "checkpoint", *CheckpointMetrics.__struct_fields__} >= ends[-1].keys()  # as clients see them


@pytest.mark.parametrize("method", [TrainingMethod.SUPERVISED, TrainingMethod.DPO])
def test_a_job_that_was_stopped_goes_on_to_the_last_bit(
    model: Path, tmp_path: Path, method: TrainingMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)  # after each step
    whole, stopped = (_job(model, tmp_path / name, method=method) for name in ("whole", "stopped"))
    for job in (whole, stopped):
        write_rows(job.folder.prompts, PROMPTS)
    _run(whole)

    class Stop(Exception):
        pass

    for last in (2, 3, 7):  # within an epoch, at its end, and in the last one

        def progress(stage: str, done: int, total: int, unit: str, last: int = last) -> None:  # noqa: ARG001
            if stage == "train" and done == last + 1:
                raise Stop

        with pytest.raises(Stop):
            train(stopped.folder, progress)
    _run(stopped)

    assert whole.adapter().keys() == stopped.adapter().keys()
    assert all(torch.equal(tensor, stopped.adapter()[name]) for name, tensor in whole.adapter().items())
    assert whole.folder.results.read_text() == stopped.folder.results.read_text()
    assert any("Continuing after step" in message for message in stopped.events())


def test_a_job_keeps_what_was_chosen_when_it_began(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)
    now = auto._DEFAULTS[TrainingMethod.SUPERVISED]._replace(least_steps=33, most_epochs=11)
    monkeypatch.setitem(auto._DEFAULTS, TrainingMethod.SUPERVISED, now)
    whole, stopped = (_job(model, tmp_path / name, Hyperparameters()) for name in ("whole", "stopped"))
    for job in (whole, stopped):
        write_rows(job.folder.prompts, PROMPTS)
    _run(whole)

    def until_third(stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG001
        if stage == "train" and done == 3:
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        train(stopped.folder, until_third)
    later = now._replace(least_steps=60, most_epochs=20, learning_rate=1e-4, rank=16)  # of a later version
    monkeypatch.setitem(auto._DEFAULTS, TrainingMethod.SUPERVISED, later)
    _run(stopped)

    assert any("Continuing after step" in message for message in stopped.events())
    assert all(torch.equal(tensor, stopped.adapter()[name]) for name, tensor in whole.adapter().items())
    assert whole.folder.results.read_text() == stopped.folder.results.read_text()
    made = [sorted(path.name for path in (job.out / "checkpoints").iterdir()) for job in (whole, stopped)]
    assert made[0] == made[1] == sorted(f"step-{step}" for step in (6, 12, 18, 24, 30, 33))


def test_a_job_goes_on_in_a_folder_that_was_moved(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path / "before")
    start = job.folder.path / "start"
    save_adapter(start, _adapter_to_go_on_with(model), "base")
    asked = msgspec.json.decode(job.folder.job.read_bytes(), type=FinetuningJob)
    job.folder.job.write_bytes(msgspec.json.encode(msgspec.structs.replace(asked, start="start")))
    steps: list[int] = []

    def until_third(stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG001
        if stage == "train":
            steps.append(done)
            if len(steps) == 4:
                raise SystemExit(143)

    with pytest.raises(SystemExit):
        train(job.folder, until_third)
    job.out.rename(tmp_path / "after")
    moved = Job(JobFolder(tmp_path / "after" / "job"), tmp_path / "after")
    _run(moved)

    assert "Continuing after step 3 of 9" in moved.events()
    assert moved.adapter()
    assert not (tmp_path / "before").exists()


def test_a_job_of_a_larger_machine_goes_on_with_the_cpus_that_there_are(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1))
    asked = msgspec.json.decode(job.folder.job.read_bytes(), type=FinetuningJob)
    engine = dataclasses.replace(asked.engine, threads=1000)
    job.folder.job.write_bytes(msgspec.json.encode(msgspec.structs.replace(asked, engine=engine)))
    _run(job)

    assert torch.get_num_threads() == len(allowed_cpus())
    assert any("made for 1000 threads" in message for message in job.events())


def _adapter_to_go_on_with(model: Path) -> Lora:
    decoder = load_folder(model, torch.float32, TrainAttention(ReferenceAttention()))
    return Lora(decoder, family_of("LlamaForCausalLM").names, LoraShape(4, 8.0), seed=5)


def test_preferences_move_the_margins_of_pairs_that_were_not_seen(model: Path, tmp_path: Path) -> None:
    given = msgspec.structs.replace(THOROUGH, learning_rate_multiplier=20.0, rpo_alpha=0.0, beta=0.1)
    job = _job(model, tmp_path, given, TrainingMethod.DPO)
    _run(job)

    last = job.folder.results.read_text().splitlines()[-1].split(",")
    assert float(last[3]) < 0.5  # log 2 before training
    assert float(last[4]) == 1.0


def test_a_job_ends_early_with_its_best_adapter(model: Path, tmp_path: Path) -> None:
    given = Hyperparameters(
        n_epochs=30, batch_size=4, lora_rank=4, early_stopping=1, learning_rate_multiplier=200.0, warmup_ratio=0.0
    )
    job = _job(model, tmp_path, given)
    _run(job)

    progress = [event.data for event in parse_events(job.folder.events.read_bytes()) if "checkpoint" in event.data]
    assert 1 < len(progress) < 30
    best = min(progress, key=lambda each: each["full_valid_loss"])
    kept = load_file(Path(best["checkpoint"]) / "adapter_model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in job.adapter().items())
    assert any("Stopped early" in message for message in job.events())
    assert any("lower after step" in message for message in job.events())


def test_a_curriculum_trains(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, msgspec.structs.replace(QUICK, order=Order.DIFFICULTY, pacing=Pacing.SQRT))
    _run(job)

    assert len(job.folder.results.read_text().splitlines()) == 10


def test_another_job_does_not_go_on_with_this_ones_state(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path)
    _run(job)
    write_rows(job.folder.train, [_item(seed) for seed in range(20, 32)])

    with pytest.raises(StartupError, match="has the state of another job"):
        _run(job)


def test_a_job_goes_on_from_an_adapter(model: Path, tmp_path: Path) -> None:
    first = _job(model, tmp_path / "first", THOROUGH)
    _run(first)
    second = _job(model, tmp_path / "second")
    job = msgspec.json.decode(second.folder.job.read_bytes(), type=FinetuningJob)
    second.folder.job.write_bytes(msgspec.json.encode(msgspec.structs.replace(job, start=str(first.out))))
    _run(second)

    loss = float(second.folder.results.read_text().splitlines()[1].split(",")[1])
    assert loss < 0.5


def test_an_example_that_is_longer_than_the_models_positions_is_refused(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path)
    write_rows(job.folder.train, [TrainingItem([Passage([5] * 257, [(6, 9)])])])

    with pytest.raises(StartupError, match=r"has 257 tokens; this model takes 256; give --max-length 256 or less"):
        _run(job)


def test_the_two_answers_of_a_preference_are_as_long_as_the_longer_one(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1), TrainingMethod.DPO)
    long = [Passage([5] * 150 + [token] * 6, [(150, 156)]) for token in (7, 8)]
    write_rows(job.folder.train, [TrainingItem(long)])
    _run(job)
    assert job.adapter()


def test_samples_end_where_the_models_positions_end(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1))
    write_rows(job.folder.samples, [Passage([5] * 254), Passage([5] * 256), Passage([5])])  # of an earlier version
    _run(job)

    samples = [event.data for event in parse_events(job.folder.events.read_bytes()) if "sample" in event.data]
    assert [each["sample"] for each in samples] == [0, 2]
    assert all(1 <= len(each["token_ids"]) <= 2 for each in samples)


def test_training_that_diverges_ends_before_it_spoils_the_adapter(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)
    job = _job(model, tmp_path)
    add_gradients = example_task.add_gradients
    steps = []

    def overflow(objective: Any, items: Any, decoder: Any, lora: Any, *more: Any) -> Any:
        score = add_gradients(objective, items, decoder, lora, *more)
        steps.append(score)
        if len(steps) == 3:
            lora.gradients[5] = torch.inf
        return score

    monkeypatch.setattr(example_task, "add_gradients", overflow)
    with pytest.raises(StartupError, match=r"step 3 is inf.*lower --learning-rate-multiplier"):
        _run(job)

    state = load_file(job.folder.state)
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert len(job.events("metrics")) == 2


def test_a_job_that_would_end_early_at_its_last_step_keeps_the_best_adapter(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(example_task, "evaluate", lambda *_: StepLoss(next(losses), 1.0, 4))
    job = _job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=2, early_stopping=1))
    _run(job)

    best = load_file(tmp_path / "checkpoints" / "step-3" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, best[name]) for name, tensor in job.adapter().items())


def test_replay_keeps_the_answers_to_questions_that_are_held_out(model: Path, tmp_path: Path) -> None:
    far = []
    for replay in (0.01, 2.0):
        job = _job(model, tmp_path / str(replay), msgspec.structs.replace(THOROUGH, replay=replay))
        write_rows(job.folder.prompts, PROMPTS)
        _run(job)
        measured = [
            event.data for event in parse_events(job.folder.events.read_bytes()) if "general_divergence" in event.data
        ]
        far.append(measured[-1]["general_divergence"])

    assert far[1] < far[0] / 2
    assert f"Answers to other questions changed much ({far[1]:.3f}; below 0.06 is fine)" in ". ".join(job.events())


def test_pretraining_says_what_is_won_and_what_is_lost(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1), TrainingMethod.PRETRAINING)
    words = tokenizers.models.WordLevel({f"w{index}": index for index in range(64)}, unk_token="w5")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(job.folder.path / "tokenizer.json"))
    _run(job)

    (line,) = (message for message in job.events() if message.startswith("Before and after"))
    assert re.fullmatch(
        r"Before and after: perplexity on the validation file \S+ -> \S+, perplexity on general text \S+ -> \S+", line
    )
    (data,) = (event.data for event in parse_events(job.folder.events.read_bytes()) if event.message == line)
    assert data["after"]["valid_loss"] < data["before"]["valid_loss"]
    assert data["after"]["text_loss"] != data["before"]["text_loss"]


def test_the_loss_of_preferred_answers_by_themselves_counts(model: Path, tmp_path: Path) -> None:
    losses = []
    for rpo_alpha in (0.0, 1.0):
        given = msgspec.structs.replace(QUICK, n_epochs=1, rpo_alpha=rpo_alpha)
        job = _job(model, tmp_path / str(rpo_alpha), given, TrainingMethod.DPO)
        _run(job)
        losses.append(float(job.folder.results.read_text().splitlines()[1].split(",")[1]))

    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[1] == pytest.approx(math.log(2) + math.log(VOCAB_SIZE), abs=1.0)


def test_a_job_that_is_told_to_stop_within_a_step_saves_the_steps_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (_job(model, tmp_path / name) for name in ("whole", "stopped"))
    _run(whole)
    add_gradients = example_task.add_gradients
    steps = []

    def until_sigterm(*arguments: Any) -> Any:
        score = add_gradients(*arguments)
        steps.append(score)
        if len(steps) == 2:
            raise SystemExit(143)
        return score

    monkeypatch.setattr(example_task, "add_gradients", until_sigterm)
    with pytest.raises(SystemExit):
        _run(stopped)
    _run(stopped)

    assert "Continuing after step 1 of 9" in stopped.events()
    assert all(torch.equal(tensor, stopped.adapter()[name]) for name, tensor in whole.adapter().items())
    assert whole.folder.results.read_text() == stopped.folder.results.read_text()


def test_a_small_file_of_different_answers_is_learned_by_the_defaults(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, Hyperparameters())
    write_rows(job.folder.train, [TrainingItem([Passage([5, 20 + n, 40 + n, 9], [(2, 4)])]) for n in range(12)])
    _run(job)

    assert len(job.events("metrics")) == 180
    assert "12 of 12 questions answered as in the file" in job.events()
    made = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert made == {f"step-{18 * number}" for number in range(1, 11)}


def test_a_finished_job_says_how_many_questions_it_answers_as_the_file_does(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path / "thorough", THOROUGH)
    _run(job)
    hasty = _job(model, tmp_path / "hasty", msgspec.structs.replace(QUICK, learning_rate_multiplier=1e-6, n_epochs=1))
    words = tokenizers.models.WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w5")
    tokenizers.Tokenizer(words).save(str(hasty.folder.tokenizer))
    write_rows(hasty.folder.train, [_item(seed, line=seed + 1) for seed in range(60)])
    _run(hasty)

    assert "12 of 12 questions answered as in the file" in job.events()
    events = parse_events(hasty.folder.events.read_bytes())
    (found,) = (event for event in events if "as_in_file" in event.data)
    assert found.message == (
        "0 of 48 questions answered as in the file (asked were 48 of its 60 examples): facts need more epochs "
        "(--n-epochs 2; now 1) or more lines that say them in other words; for a style or a skill this number says "
        "little, and the loss on a validation file says more"
    )
    assert found.data == {"questions": 48, "as_in_file": 0, "examples": 60}
    wrong = [event for event in events if "expected" in event.data]
    assert len(wrong) == 3
    assert wrong[0].data["expected"] == "w7 w8 w9"
    assert (
        wrong[0].message == f'Line {wrong[0].data["line"]}: the answer is "{wrong[0].data["text"]}" and not "w7 w8 w9"'
    )


def test_the_last_answer_of_a_long_chat_is_asked_for(model: Path, tmp_path: Path) -> None:
    job = _job(model, tmp_path, THOROUGH)
    turns = [
        TrainingItem([Passage([*_item(seed).passages[0].ids, 5, 6, 10, 11, 9], [(6, 9), (11, 14)])])
        for seed in range(12)
    ]
    write_rows(job.folder.train, turns)
    _run(job)

    assert "12 of 12 questions answered as in the file" in job.events()


def test_too_little_memory_is_told_with_the_arithmetic_before_the_first_step(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "obtainable_memory_bytes", lambda _: 200 << 20)
    job = _job(model, tmp_path)
    with pytest.raises(
        NotEnoughMemory, match=r"training needs 0\.2[5-9] GiB besides .* 0\.20 GiB is free: .*--max-length"
    ):
        _run(job)
    assert not job.folder.state.exists()


def test_tokens_that_are_computed_together_are_bounded() -> None:
    assert memory.most_tokens([10, 700, 600, 20], 1) == 700
    assert memory.most_tokens([10, 700, 600, 20], 4) == 1024
    assert memory.most_tokens([10, 700, 600, 20, 3000], 4) == 3000
    assert memory.most_tokens([10, 20], 4) == 30
