"""Texts to speculate on: prompts made of the standard library's sources, so that every machine has the same ones."""

import importlib
import inspect
from dataclasses import dataclass

import tokenizers

from engine.bench.config import SpecTask
from engine.protocol import EngineInfo

_MODULES = (
    *("bisect", "heapq", "textwrap", "shlex", "fnmatch", "calendar", "csv", "queue", "sched", "statistics"),
    *("string", "tempfile", "glob", "copy", "cmd", "contextlib"),
)
_SKIPPED_LINES, _LINES = 20, 45  # of each source; its beginning is mostly imports


@dataclass(frozen=True, slots=True)
class TaskText:
    prompt_ids: list[int]
    prediction_ids: list[int]  # for the edit task: the text before the edit


def task_texts(info: EngineInfo, task: SpecTask, count: int, *, with_prediction: bool) -> list[TaskText]:
    """`count` different texts, as token ids."""
    tokenizer = tokenizers.Tokenizer.from_buffer(info.tokenizer.tokenizer_json)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    texts = []
    for number in range(count):
        source = _source(number)
        prediction = encode(source) if with_prediction and task is SpecTask.EDIT else []
        texts.append(TaskText(encode(_prompt(task, source)), prediction))
    return texts


def _source(number: int) -> str:
    """Lines of one module; where there are more numbers than modules, later lines of the same."""
    module = importlib.import_module(_MODULES[number % len(_MODULES)])
    lines = inspect.getsource(module).splitlines()
    first = _SKIPPED_LINES + number // len(_MODULES) * _LINES
    return "\n".join(lines[first : first + _LINES]) + "\n"


def _prompt(task: SpecTask, source: str) -> str:
    match task:
        case SpecTask.EDIT:
            return f"A part of a file:\n```python\n{source}```\n\nThe same with `self` renamed to `this`:\n```python\n"
        case SpecTask.CODE:
            return source
        case SpecTask.CHAT:
            return f"```python\n{source}```\n\nQuestion: What does this code do, step by step?\n\nAnswer: "
