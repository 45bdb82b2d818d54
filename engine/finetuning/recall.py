"""report_recall: asks the finished adapter the file's own questions, and says how many it has learned."""

import random
from collections.abc import Sequence

import tokenizers

from engine.command_io.finetuning.auto import ResolvedHyperparameters
from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.items import Passage, TrainingItem
from engine.finetuning.loss.layout import prompt_of
from engine.wording import counted
from models.decoder import Decoder
from models.progress import ProgressReport
from models.training.generate import generate
from models.training.lora import Lora

_MOST_QUESTIONS = 48  # questions; more are sampled, so that the cost of a large file is bounded
_MAX_TOKENS = 64  # of an answer that are compared
_TOGETHER = 16
_SHOWN = 3  # answers that differ
_SHOWN_CHARACTERS = 200


def report_recall(
    items: Sequence[TrainingItem],
    decoder: Decoder,
    lora: Lora,
    end_ids: Sequence[int],
    resolved: ResolvedHyperparameters,
    tokenizer: tokenizers.Tokenizer | None,
    events: JobEventLog,
    progress: ProgressReport,
) -> None:
    """Answer questions of the file greedily, with the serving kernels, and log how many answers are as in the file.

    items: chats, or prompts with completions; the last answer of each is asked for. Raises OSError.
    """
    chosen = [(item.line, _last_turn(item.passages[0])) for item in _sampled(items)]
    found: list[tuple[int, list[int], list[int]]] = []  # line, expected, answer
    for start in range(0, len(chosen), _TOGETHER):
        progress("ask the file's questions", start, len(chosen), "answers")
        some = chosen[start : start + _TOGETHER]
        prompts = [list(prompt_of(turn)) for _, turn in some]
        room = min(_MAX_TOKENS, decoder.spec.max_position - max(map(len, prompts)))
        wanted = [turn.ids[len(prompt) :][:room] for (_, turn), prompt in zip(some, prompts, strict=True)]
        answers = generate(decoder, prompts, end_ids, max(map(len, wanted)), lora=lora)
        found += [(line, *each) for (line, _), *each in zip(some, wanted, answers, strict=True)]
    progress("ask the file's questions", len(chosen), len(chosen), "answers")
    differing = [each for each in found if each[1] != each[2][: len(each[1])]]
    events.add(
        _summary(len(found) - len(differing), len(found), len(items), resolved.n_epochs),
        questions=len(found),
        as_in_file=len(found) - len(differing),
        examples=len(items),
    )
    if tokenizer is None:
        return
    for line, expected, answer in differing[:_SHOWN]:
        text, wanted_text = (_shown(tokenizer, ids) for ids in (answer, expected))
        events.add(
            f'Line {line}: the answer is "{text}" and not "{wanted_text}"', line=line, text=text, expected=wanted_text
        )


def _sampled(items: Sequence[TrainingItem]) -> list[TrainingItem]:
    if len(items) <= _MOST_QUESTIONS:
        return list(items)
    indices = sorted(random.Random(0).sample(range(len(items)), _MOST_QUESTIONS))
    return [items[index] for index in indices]


def _last_turn(passage: Passage) -> Passage:
    """Return the passage with only its last answer trained, so that everything before is the prompt."""
    return Passage(passage.ids[: passage.trained[-1][1]], [passage.trained[-1]])


def _summary(num_equal: int, num_questions: int, num_items: int, n_epochs: int) -> str:
    found = f"{num_equal} of {counted(num_questions, 'question')} answered as in the file"
    if num_questions < num_items:
        found += f" (asked were {num_questions} of its {num_items:,} examples)"
    if num_equal == num_questions:
        return found
    return (
        f"{found}: facts need more epochs (--n-epochs {2 * n_epochs}; now {n_epochs}) or more lines that say them in "
        "other words; for a style or a skill this number says little, and the loss on a validation file says more"
    )


def _shown(tokenizer: tokenizers.Tokenizer, ids: Sequence[int]) -> str:
    return " ".join(tokenizer.decode(ids).split())[:_SHOWN_CHARACTERS]
