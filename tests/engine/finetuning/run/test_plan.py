"""The plan of a prepared job: as much memory and as many numbers as the job then has."""

from pathlib import Path

from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.items import write_rows
from engine.finetuning.plan import plan_training
from tests.helpers.finetuning_run import PROMPTS, finetuning_job, run_job


def test_a_plan_has_the_figures_of_the_job(model: Path, tmp_path: Path) -> None:
    job = finetuning_job(model, tmp_path)
    write_rows(job.folder.prompts, PROMPTS)
    plan = plan_training(job.folder)
    run_job(job)

    trained = sum(matrix.numel() for matrix in job.adapter().values())
    assert plan.num_values == trained
    events = parse_events(job.folder.events.read_bytes())
    (begun,) = (event.data for event in events if "batch_size" in event.data)
    assert (plan.n_epochs, plan.num_steps, plan.lora_rank) == (
        begun["n_epochs"],
        begun["total_steps"],
        begun["lora_rank"],
    )
    computed = sum(event.data["tokens"] for event in events if event.kind == "metrics")
    assert plan.n_epochs * plan.num_tokens <= computed <= plan.total_tokens
    assert plan.num_learned == 12 * 3
    assert plan.state_bytes == trained * 20  # with validation
    assert plan.weight_bytes > 4 * plan.num_parameters * 0.99  # fp32
    assert plan.needed_bytes > plan.weight_bytes
