"""Replay: the base's own answers to everyday questions, learned again so that they stay as they are."""

from collections.abc import Sequence

from engine.jobs.finetune.items import Passage, TrainingItem, read_rows, write_rows
from engine.jobs.finetune.job import JobFolder
from models.decoder import Decoder
from models.progress import ProgressReport
from models.training.generate import generate
from models.training.lora import Lora

_MAX_TOKENS = 48  # of an answer
_TEMPERATURE = 0.7  # of further answers to one question
_TOGETHER = 16


def replay_items(
    folder: JobFolder,
    lora: Lora,
    decoder: Decoder,
    end_ids: Sequence[int],
    wanted: int,
    seed: int,
    progress: ProgressReport,
) -> list[TrainingItem]:
    """Up to `wanted` answers, as they were generated when the job began, or generated now.

    Empty where there are no prompts. Raises OSError.
    """
    if folder.replay.exists():
        return read_rows(folder.replay, TrainingItem)
    prompts = read_rows(folder.prompts, Passage)
    if not prompts or not wanted:
        return []
    items: list[TrainingItem] = []
    is_adapted, lora.is_adapted = lora.is_adapted, False
    try:
        for start in range(0, wanted, _TOGETHER):
            progress("answer as the base", start, wanted, "answers")
            turn = range(start, min(start + _TOGETHER, wanted))
            asked = [prompts[index % len(prompts)].ids for index in turn]
            temperature = 0.0 if turn.stop <= len(prompts) else _TEMPERATURE
            answers = generate(decoder, asked, end_ids, _MAX_TOKENS, temperature=temperature, seed=seed + start)
            for prompt, answer in zip(asked, answers, strict=True):
                items.append(TrainingItem([Passage([*prompt, *answer], [(len(prompt), len(prompt) + len(answer))])]))
        progress("answer as the base", wanted, wanted, "answers")
    finally:
        lora.is_adapted = is_adapted
    write_rows(folder.replay, items)
    return items
