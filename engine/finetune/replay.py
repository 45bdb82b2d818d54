"""Replay: the base's own answers to everyday questions, learned again so that they stay as they are."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.errors import StartupError
from engine.jobs.finetune.items import Passage, TrainingItem, read_rows
from engine.jobs.finetune.job import JobFolder, write_atomically
from models.decoder import Decoder
from models.progress import ProgressReport
from models.training.generate import generate
from models.training.lora import Lora

_MAX_TOKENS = 48  # of an answer
_TEMPERATURE = 0.7  # of further answers to one question
_TOGETHER = 16


class _Replay(msgspec.Struct, frozen=True):
    """The file of a job's answers. digest: of the job. wanted: how many answers were asked for."""

    digest: str
    wanted: int
    items: list[TrainingItem]


def replay_items(
    folder: JobFolder,
    digest: str,
    lora: Lora,
    decoder: Decoder,
    end_ids: Sequence[int],
    wanted: int,
    seed: int,
    progress: ProgressReport,
) -> list[TrainingItem]:
    """`wanted` answers, as they were generated when the job began, or generated now. digest: of the job.

    Empty where there are no prompts. Raises OSError, and StartupError if a prompt leaves no room for an answer.
    """
    prompts = read_rows(folder.prompts, Passage)
    if not prompts or not wanted:
        return []
    known = _read(folder.replay)
    if known is not None and (known.digest, known.wanted) == (digest, wanted):
        return known.items
    longest, limit = max(len(prompt.ids) for prompt in prompts), decoder.spec.max_position
    if longest >= limit:
        raise StartupError(
            f"a question whose answer is to be replayed has {longest:,} tokens; this model takes {limit:,}; give "
            "--replay 0"
        )
    items: list[TrainingItem] = []
    is_adapted, lora.is_adapted = lora.is_adapted, False
    try:
        for start in range(0, wanted, _TOGETHER):
            progress("answer as the base", start, wanted, "answers")
            turn = range(start, min(start + _TOGETHER, wanted))
            asked = [prompts[index % len(prompts)].ids for index in turn]
            temperature = 0.0 if turn.stop <= len(prompts) else _TEMPERATURE
            max_tokens = min(_MAX_TOKENS, limit - longest)
            answers = generate(decoder, asked, end_ids, max_tokens, temperature=temperature, seed=seed + start)
            for prompt, answer in zip(asked, answers, strict=True):
                items.append(TrainingItem([Passage([*prompt, *answer], [(len(prompt), len(prompt) + len(answer))])]))
        progress("answer as the base", wanted, wanted, "answers")
    finally:
        lora.is_adapted = is_adapted
    write_atomically(folder.replay, msgspec.json.encode(_Replay(digest, wanted, items)))
    return items


def _read(path: Path) -> _Replay | None:
    """None if there is no such file, or one of an earlier version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Replay)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
