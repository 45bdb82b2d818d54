"""Replay: the base model's own answers to everyday questions, which anchor the adapter to the base model."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.command_io.finetuning.items import Passage, TrainingItem, read_rows
from engine.command_io.finetuning.job import JobFolder, write_atomically
from engine.errors import StartupError
from models.decoder import Decoder
from models.progress import ProgressReport
from models.training.generate import generate
from models.training.lora import Lora

MAX_ANSWER_TOKENS = 32
_TEMPERATURE = 0.7  # of further answers to one question
_TOGETHER = 16
_MAX_HELD_OUT = 8  # questions


class ReplayedAnswers(msgspec.Struct, frozen=True):
    """Answers of the base model. pool: replayed in training steps. held_out: only used to measure the divergence."""

    pool: list[TrainingItem]
    held_out: list[TrainingItem]


class _Replay(msgspec.Struct, frozen=True):
    """The JSON file with a job's replayed answers. digest: hash of the job. wanted: the requested number of answers."""

    digest: str
    wanted: int
    answers: ReplayedAnswers


def num_questions(prompts: Sequence[Passage]) -> int:
    """Return how many of the prompts are replayed, counted from the first; the last ones are held out."""
    return len(prompts) - min(_MAX_HELD_OUT, len(prompts) // 4)


def replayed_answers(
    folder: JobFolder,
    digest: str,
    lora: Lora,
    decoder: Decoder,
    end_ids: Sequence[int],
    wanted: int,
    seed: int,
    progress: ProgressReport,
) -> ReplayedAnswers:
    """Return `wanted` answers of the base model to replay and the held-out ones, generating them unless the job's
    folder has them.

    digest: hash of the job. Returns no answers if there are no prompts. Raises OSError, and StartupError if a prompt
    leaves no room for an answer.
    """
    prompts = read_rows(folder.prompts, Passage)
    if not prompts or not wanted:
        return ReplayedAnswers([], [])
    known = _read(folder.replay)
    if known is not None and (known.digest, known.wanted) == (digest, wanted):
        return known.answers
    longest, limit = max(len(prompt.ids) for prompt in prompts), decoder.spec.max_position
    if longest >= limit:
        raise StartupError(
            f"a question of the replay has {longest:,} tokens; this model takes {limit:,}; give --replay 0"
        )
    count = num_questions(prompts)
    pool = [prompts[index % count].ids for index in range(wanted)]
    held_out = [prompt.ids for prompt in prompts[count:]]
    max_tokens = min(MAX_ANSWER_TOKENS, limit - longest)
    total, items = wanted + len(held_out), list[TrainingItem]()
    is_adapted, lora.is_adapted = lora.is_adapted, False
    try:
        for questions, temperature in ((pool[:count], 0.0), (pool[count:], _TEMPERATURE), (held_out, 0.0)):
            for start in range(0, len(questions), _TOGETHER):
                progress("answer as the base", len(items), total, "answers")
                some = questions[start : start + _TOGETHER]
                answers = generate(decoder, some, end_ids, max_tokens, temperature=temperature, seed=seed + len(items))
                items += map(_item, some, answers)
        progress("answer as the base", total, total, "answers")
    finally:
        lora.is_adapted = is_adapted
    found = ReplayedAnswers(items[:wanted], items[wanted:])
    write_atomically(folder.replay, msgspec.json.encode(_Replay(digest, wanted, found)))
    return found


def _item(prompt: Sequence[int], answer: Sequence[int]) -> TrainingItem:
    return TrainingItem([Passage([*prompt, *answer], [(len(prompt), len(prompt) + len(answer))])])


def _read(path: Path) -> _Replay | None:
    """Read the file of answers; return None if it is missing or has the format of another version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Replay)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
