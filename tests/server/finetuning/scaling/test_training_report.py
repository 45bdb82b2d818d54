"""The report of a plan: arithmetic that a reader can repeat."""

from pathlib import Path

import msgspec
import pytest

from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, TrainingMethod
from engine.config import EngineConfig
from engine.errors import OptionError
from server.finetuning.scaling.training_report import measured_speed, training_report
from tests.helpers.training_plan import PLAN

pytestmark = pytest.mark.fast


def test_tokens_memory_and_time_follow_from_the_plan() -> None:
    report = training_report(PLAN, None)
    assert "3 epochs in 75 steps: 32,000 tokens to compute, about 2,000 of them replayed answers" in report
    assert "Memory: 2.25 GiB, and 4.00 GiB is free" in report
    assert "does not fit" not in report
    assert "Time: 64 s to 2.1 min of CPU time" in report  # 4 * 80e6 * 32,000 operations at 160 and 80 GFLOP/s
    assert "rank 8 holds about 1,600,000 bits, and the file teaches about 4,000: it is large enough" in report


def test_a_measured_speed_replaces_the_published_one() -> None:
    assert "Time: 5.3 min, at the measured 100 tokens/s" in training_report(PLAN, 100.0)


def test_a_small_adapter_and_a_small_memory_are_named_with_remedies() -> None:
    report = training_report(msgspec.structs.replace(PLAN, num_learned=4_000_000, free_bytes=1 << 30), None)
    assert "it is too small for all of it; --lora-rank 20 would hold it, with 3.00 GiB of memory" in report
    assert "That does not fit: lower --max-length, --batch-size or --lora-rank" in report


def test_no_rank_above_the_width_of_the_model_is_named() -> None:
    rank_576, more = (
        training_report(msgspec.structs.replace(PLAN, num_learned=each), None) for each in (115_200_000, 115_200_001)
    )
    assert "--lora-rank 576 would hold it" in rank_576
    assert "so is any rank: above 576, the model's width, one adds nothing; train on fewer examples" in more
    assert "--lora-rank 577" not in more


def test_the_speed_of_a_job_is_that_of_its_steps(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    with pytest.raises(OptionError, match=r"--like: .* cannot be read"):
        measured_speed(folder, "model.gguf")
    job = FinetuningJob(
        engine=EngineConfig(model="here/model.gguf"),
        method=TrainingMethod.SUPERVISED,
        hyperparameters=Hyperparameters(),
    )
    folder.job.write_bytes(msgspec.json.encode(job))
    events = JobEventLog(folder.events)
    events.add("The job begins")
    with pytest.raises(OptionError, match="has no steps of training"):
        measured_speed(folder, "model.gguf")
    for tokens, step_s in ((100, 0.5), (200, 1.0)):
        events.add("Step", kind="metrics", data={"tokens": tokens}, step_s=step_s)
    assert measured_speed(folder, "/elsewhere/model.gguf") == 200.0
    with pytest.raises(
        OptionError, match=r"trained here/model.gguf, not here/other.gguf; give a job of the same model"
    ):
        measured_speed(folder, "here/other.gguf")
