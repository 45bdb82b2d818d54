"""Folders of finished fine-tuning jobs, without any training."""

from pathlib import Path

from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.job import JobFolder


def finished_job(
    where: Path,
    *,
    examples: int = 100,
    rank: int = 8,
    epochs: int = 2,
    loss: float | None = 1.5,
    before: float = 3.0,
    beta: float | None = None,
) -> str:
    """The path of a job's folder, with the files that it leaves. loss: None if the job was not finished."""
    folder = JobFolder(where / "job")
    folder.path.mkdir(parents=True)
    events = JobEventLog(folder.events)
    events.add("begin", n_epochs=epochs, batch_size=4, learning_rate=4e-4, lora_rank=rank, beta=beta)
    if loss is not None:
        events.add("end", data={"before": {"valid_loss": before}, "after": {"valid_loss": loss}})
    events.close()
    folder.report.write_bytes(b'{"num_items": %d}' % examples)
    return str(where)
