"""The cases of `headrace bench spec`: sources of drafts, on texts from the source code of Python's standard library."""

import enum
import importlib
import inspect
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import tokenizers

from engine.errors import StartupError
from engine.protocol import EngineInfo
from engine.speculation.proposers import DraftSource


class BenchTask(enum.StrEnum):
    """The kind of text that a case generates."""

    EDIT = "edit"  # a part of a file once more, with a name changed
    CODE = "code"  # the rest of a file
    CHAT = "chat"  # a question about a part of a file


_SOURCES = {"draft": DraftSource.DRAFT_MODEL, "ngram": DraftSource.NGRAM, "prediction": DraftSource.PREDICTION}
_DEFAULT_CASES = ("draft:code", "draft:chat", "ngram:edit", "prediction:edit")
_MODULES = (
    *("argparse", "ast", "calendar", "configparser", "csv", "dataclasses", "difflib", "doctest", "fractions"),
    *("ftplib", "gettext", "heapq", "http.client", "imaplib", "inspect", "ipaddress", "logging", "mailbox"),
    *("optparse", "pathlib", "pdb", "pickle", "pickletools", "platform", "plistlib", "pprint", "shutil", "smtplib"),
    *("socketserver", "statistics", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "tokenize"),
    *("trace", "traceback", "typing", "unittest.mock", "urllib.parse", "urllib.request", "uuid", "zipfile"),
)
_SKIPPED_LINES = 20  # of each source file; its beginning is mostly imports


@dataclass(frozen=True, slots=True)
class SpeculationCase:
    """A source of drafts, and the task that it drafts for."""

    source: DraftSource
    task: BenchTask

    @property
    def name(self) -> str:
        return f"{self.source.value.replace('_', ' ')}, {self.task.value}"


@dataclass(frozen=True, slots=True)
class TaskText:
    prompt_ids: list[int]
    prediction_ids: list[int]  # of an edit: the text before it


def parse_cases(texts: Sequence[str], available: Collection[DraftSource]) -> list[SpeculationCase]:
    """Parse the names of cases; without names, return the default cases whose source is available.

    Raises StartupError for an unknown case, or one whose source is not available or does not apply.
    """
    cases = []
    for text in texts or [case for case in _DEFAULT_CASES if _SOURCES[case.partition(":")[0]] in available]:
        source, _, task = text.partition(":")
        if source not in _SOURCES or task not in list(BenchTask):
            tasks = ", ".join(BenchTask)
            raise StartupError(
                f"--case is {text!r}; it must be one of {', '.join(_SOURCES)}, a colon, and one of {tasks}"
            )
        case = SpeculationCase(_SOURCES[source], BenchTask(task))
        if case.source not in available:
            raise StartupError(f"--case {text} needs a draft model; give --draft-model")
        if case.source is DraftSource.PREDICTION and case.task is not BenchTask.EDIT:
            raise StartupError(f"--case {text}: only an edit can be predicted; take prediction:edit")
        cases.append(case)
    return cases


class TaskTexts:
    """A supply of texts that are all different, so that none hits the prefix cache."""

    def __init__(self, info: EngineInfo, num_lines: int) -> None:
        """num_lines: lines of source code in each text."""
        self._tokenizer = tokenizers.Tokenizer.from_buffer(info.tokenizer.tokenizer_json)
        self._parts = _parts(num_lines)

    def take(self, case: SpeculationCase, count: int) -> list[TaskText]:
        """Take the next `count` texts. Raises StartupError if there are fewer."""
        parts = list(itertools.islice(self._parts, count))
        if len(parts) < count:
            raise StartupError("there are no more texts; lower --num-iters or --batch-size, or measure fewer cases")
        predicts = case.source is DraftSource.PREDICTION
        return [
            TaskText(self._encode(_prompt(case.task, part)), self._encode(part) if predicts else []) for part in parts
        ]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _parts(num_lines: int) -> Iterator[str]:
    """Yield parts of source files, from each module in turn, so that consecutive parts differ in module."""
    sources = [inspect.getsource(importlib.import_module(name)).splitlines() for name in _MODULES]
    for first in range(_SKIPPED_LINES, max(map(len, sources)) - num_lines, num_lines):
        for lines in sources:
            if first + num_lines <= len(lines):
                yield "\n".join(lines[first : first + num_lines]) + "\n"


def _prompt(task: BenchTask, part: str) -> str:
    match task:
        case BenchTask.EDIT:
            return f"A part of a file:\n```python\n{part}```\n\nThe same with `self` renamed to `this`:\n```python\n"
        case BenchTask.CODE:
            return part
        case BenchTask.CHAT:
            return f"```python\n{part}```\n\nQuestion: What does this code do, step by step?\n\nAnswer: "
