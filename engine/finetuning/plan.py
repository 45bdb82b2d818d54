"""`python -m engine.finetuning.plan FOLDER`: prints the TrainingPlan of a prepared JobFolder as JSON, without training.

FOLDER is a path as a JSON string. Only the headers of the model's files are read.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.finetuning.auto import resolve_hyperparameters
from engine.command_io.finetuning.items import Passage, TrainingItem, read_rows
from engine.command_io.finetuning.job import FinetuningJob, JobFolder
from engine.command_io.finetuning.plan import TrainingPlan
from engine.command_io.progress import stderr_lines
from engine.finetuning.examples.setup import ExampleSetup
from engine.finetuning.memory import active_share, most_tokens, training_memory
from engine.finetuning.replay import MAX_ANSWER_TOKENS, num_questions
from engine.startup.answer import print_answer
from engine.startup.load import load_options
from models.decoder import Decoder
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.sources.resolve import resolve_model
from models.system.memory import obtainable_memory_bytes
from models.training.load import training_skeleton
from models.training.lora import values_per_rank


def main(argv: Sequence[str]) -> int:
    exit_on_sigterm()
    end_with_parent()
    return print_answer(lambda: plan_training(JobFolder(Path(msgspec.json.decode(argv[0], type=str)))))


def plan_training(folder: JobFolder) -> TrainingPlan:
    """Return the plan of a prepared job whose examples are in a file. Raises ModelError or HeadraceError."""
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    setup = ExampleSetup(folder, job)
    progress = stderr_lines()
    files = resolve_model(job.engine.model, job.engine.revision, progress)
    skeleton = training_skeleton(files, load_options(job.engine, "cpu"), progress)
    decoder = skeleton.decoder
    setup.check_length(decoder.spec.max_position)
    prompts = read_rows(folder.prompts, Passage)
    resolved = resolve_hyperparameters(
        job.method,
        job.hyperparameters,
        setup.num_items,
        num_questions(prompts),
        setup.num_answers,
        width=decoder.spec.hidden_size,
    )
    items = read_rows(folder.train, TrainingItem)
    sizes = [item.num_tokens for item in items]
    num_values = resolved.rank * values_per_rank(decoder, skeleton.names, tuple(job.hyperparameters.target_modules))
    together = most_tokens(sizes, resolved.batch_size)
    memory = training_memory(decoder, num_values, together, keeps_best=folder.valid.stat().st_size > 0)
    replayed = resolved.replayed_per_step * resolved.num_steps
    prompt_tokens = sum(len(prompt.ids) for prompt in prompts) / max(1, len(prompts))
    num_parameters, num_multiplied = _count(decoder)
    return TrainingPlan(
        num_examples=len(items),
        num_tokens=sum(sizes),
        num_learned=sum(item.num_trained for item in items),
        replayed_tokens=int(replayed * (prompt_tokens + MAX_ANSWER_TOKENS)),
        n_epochs=resolved.n_epochs,
        num_steps=resolved.num_steps,
        lora_rank=resolved.rank,
        num_values=num_values,
        num_parameters=num_parameters,
        num_multiplied=num_multiplied,
        width=decoder.spec.hidden_size,
        weight_bytes=skeleton.weight_bytes,
        state_bytes=memory.state,
        activation_bytes=memory.activations,
        work_bytes=memory.work,
        free_bytes=obtainable_memory_bytes(torch.device("cpu")),
    )


def _count(decoder: Decoder) -> tuple[int, int]:
    """Return the numbers of all matrices, and of those that a token is multiplied by."""
    share = active_share(decoder)
    total, multiplied = 0, 0.0
    for name, layer in decoder.named_modules():
        if isinstance(layer, Linear):
            count = layer.in_features * layer.out_features
            total += count
            if layer is decoder.head or not isinstance(layer, Embedding):
                multiplied += count * (share if ".experts." in name else 1.0)
    return total, int(multiplied)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
