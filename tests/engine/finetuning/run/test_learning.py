"""Whole jobs on a tiny model: they learn, end early, and say what they learned and what was lost."""

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.items import Passage, TrainingItem, write_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, Order, Pacing, Probe, TrainingMethod
from engine.errors import StartupError
from engine.finetuning import trainer
from engine.finetuning.examples import task as example_task
from engine.finetuning.loss.objective import StepLoss
from server.finetuning.scaling.points import held_out_losses
from server.schemas.finetuning_answers import CheckpointMetrics
from tests.helpers.checkpoints import VOCAB_SIZE
from tests.helpers.finetuning_run import PROMPTS, QUICK, THOROUGH, finetuning_job, run_job, training_item


def test_a_job_learns_and_leaves_its_results(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, THOROUGH)
    write_rows(job.folder.prompts, [Passage([5, 6, 7]), Passage([8, 9])])
    run_job(job)

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


def test_preferences_move_the_margins_of_pairs_that_were_not_seen(model: Path, tmp_path: Path) -> None:
    given = msgspec.structs.replace(THOROUGH, learning_rate_multiplier=20.0, rpo_alpha=0.0, beta=0.1)
    job = finetuning_job(model, tmp_path, given, TrainingMethod.DPO)
    run_job(job)

    last = job.folder.results.read_text().splitlines()[-1].split(",")
    assert float(last[3]) < 0.5  # log 2 before training
    assert float(last[4]) == 1.0


def test_a_job_ends_early_with_its_best_adapter(model: Path, tmp_path: Path) -> None:
    given = Hyperparameters(
        n_epochs=30, batch_size=4, lora_rank=4, early_stopping=1, learning_rate_multiplier=200.0, warmup_ratio=0.0
    )
    job = finetuning_job(model, tmp_path, given)
    run_job(job)

    progress = [event.data for event in parse_events(job.folder.events.read_bytes()) if "checkpoint" in event.data]
    assert 1 < len(progress) < 30
    best = min(progress, key=lambda each: each["full_valid_loss"])
    kept = load_file(Path(best["checkpoint"]) / "adapter_model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in job.adapter().items())
    assert any("Stopped early" in message for message in job.events())
    assert any("lower after step" in message for message in job.events())


def test_a_curriculum_trains(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, msgspec.structs.replace(QUICK, order=Order.DIFFICULTY, pacing=Pacing.SQRT))
    run_job(job)

    assert len(job.folder.results.read_text().splitlines()) == 10


def test_training_that_diverges_ends_before_it_spoils_the_adapter(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_INTERVAL_S", -1.0)
    job = finetuning_job(model, tmp_path)
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
        run_job(job)

    state = load_file(job.folder.state)
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert len(job.events("metrics")) == 2


def test_a_job_that_would_end_early_at_its_last_step_keeps_the_best_adapter(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(example_task, "evaluate", lambda *_: StepLoss(next(losses), 1.0, 4))
    job = finetuning_job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=2, early_stopping=1))
    run_job(job)

    best = load_file(tmp_path / "checkpoints" / "step-3" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, best[name]) for name, tensor in job.adapter().items())


def test_replay_keeps_the_answers_to_questions_that_are_held_out(model: Path, tmp_path: Path) -> None:
    far = []
    for replay in (0.01, 2.0):
        job = finetuning_job(model, tmp_path / str(replay), msgspec.structs.replace(THOROUGH, replay=replay))
        write_rows(job.folder.prompts, PROMPTS)
        run_job(job)
        measured = [
            event.data for event in parse_events(job.folder.events.read_bytes()) if "general_divergence" in event.data
        ]
        far.append(measured[-1]["general_divergence"])

    assert far[1] < far[0] / 2
    assert f"Answers to other questions changed much ({far[1]:.3f}; below 0.06 is fine)" in ". ".join(job.events())


def test_pretraining_says_what_is_won_and_what_is_lost(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, msgspec.structs.replace(QUICK, n_epochs=1), TrainingMethod.PRETRAINING)
    words = tokenizers.models.WordLevel({f"w{index}": index for index in range(64)}, unk_token="w5")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(job.folder.path / "tokenizer.json"))
    run_job(job)

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
        job = finetuning_job(model, tmp_path / str(rpo_alpha), given, TrainingMethod.DPO)
        run_job(job)
        losses.append(float(job.folder.results.read_text().splitlines()[1].split(",")[1]))

    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[1] == pytest.approx(math.log(2) + math.log(VOCAB_SIZE), abs=1.0)


def test_a_small_file_of_different_answers_is_learned_by_the_defaults(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, Hyperparameters())
    write_rows(job.folder.train, [TrainingItem([Passage([5, 20 + n, 40 + n, 9], [(2, 4)])]) for n in range(12)])
    run_job(job)

    assert len(job.events("metrics")) == 180
    assert "12 of 12 questions answered as in the file" in job.events()
    made = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert made == {f"step-{18 * number}" for number in range(1, 11)}


def test_a_finished_job_says_how_many_questions_it_answers_as_the_file_does(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path / "thorough", THOROUGH)
    run_job(job)
    hasty = finetuning_job(
        model, tmp_path / "hasty", msgspec.structs.replace(QUICK, learning_rate_multiplier=1e-6, n_epochs=1)
    )
    words = tokenizers.models.WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w5")
    tokenizers.Tokenizer(words).save(str(hasty.folder.tokenizer))
    write_rows(hasty.folder.train, [training_item(seed, line=seed + 1) for seed in range(60)])
    run_job(hasty)

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


def test_a_job_that_is_compared_has_the_given_rate_and_reports_no_questions_and_no_adapter(
    model: Path, tmp_path: Path
) -> None:
    job = finetuning_job(model, tmp_path)
    known = msgspec.json.decode(job.folder.job.read_bytes(), type=FinetuningJob)
    job.folder.job.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, probe=Probe(1.5e-5))))
    run_job(job)

    events = parse_events(job.folder.events.read_bytes())
    assert [event.data["learning_rate"] for event in events if "batch_size" in event.data] == [1.5e-5]
    assert max(event.data["learning_rate"] for event in events if event.kind == "metrics") == 1.5e-5
    assert not [event for event in events if "as_in_file" in event.data or "adapter" in event.data]
    assert held_out_losses(job.folder)[1] > 0


def test_the_last_answer_of_a_long_chat_is_asked_for(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path, THOROUGH)
    turns = [
        TrainingItem([Passage([*training_item(seed).passages[0].ids, 5, 6, 10, 11, 9], [(6, 9), (11, 14)])])
        for seed in range(12)
    ]
    write_rows(job.folder.train, turns)
    run_job(job)

    assert "12 of 12 questions answered as in the file" in job.events()
