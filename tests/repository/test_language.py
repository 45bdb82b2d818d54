"""Docstrings stand alone, the words are those of the field, and a public name means one thing.

CONTRIBUTING.md has the rules that a person applies; what a pattern can find is held here.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.import_floors import FLOORS, sources
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

# A docstring begins with a verb or the thing's noun. These words finish the sentence that a signature began.
_OPENERS = {"What", "Of", "Those", "Have", "That", "As", "So", "Whoever", "Whatever", "Let", "Then", "Meanwhile"}

_BANNED_WORDS = re.compile(
    r"(?i)\b(?:whoever|whereof|befell|hasten(?:s|ed)?|breathing|standstill|surroundings|so many of"
    r"|(?:is|are|was|were|be|been|being) told(?! apart)|(?:get|gets|got|getting) on with)\b"
)

# Within a name that we define; and as a whole name.
_BANNED_IN_NAMES = {"tell", "tells", "told", "asked", "news", "wish", "wishes", "begun"}
_BANNED_NAMES = {"places", "settled", "entered", "reached"}
_LONG_ENOUGH_TO_BE_PROSE = 3  # words of a string

# Public names that two files define, and why each may.
_RESPONSE_ITEM = "an item of the Responses API, as requests send it and as answers have it"
_SHARED_NAMES: dict[str, str] = {
    "FunctionCallItem": _RESPONSE_ITEM,
    "MessageItem": _RESPONSE_ITEM,
    "ReasoningItem": _RESPONSE_ITEM,
    "load_model": "reads weights from a checkpoint, and is an operation of the API",
    "main": "the function that `python -m` runs",
    "run": "the function of each subcommand",
}

# Files that implement one contract side by side: items of a registry, and columns of the table of operations.
_CONTRACTS = ("/families", "/formats", "/routes", "/endpoints", "/sampling/steps")


def first_word(doc: str) -> str:
    return re.split(r"[\s,;:.]", doc.lstrip(), maxsplit=1)[0]


def banned_words(text: str) -> list[str]:
    return _BANNED_WORDS.findall(" ".join(text.split()))


def banned_name(name: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")
    return bool(_BANNED_IN_NAMES & set(words)) or "_".join(words) in _BANNED_NAMES


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc is not None:
                yield getattr(node, "lineno", 1), doc


def texts(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Comments, docstrings, and strings that are long enough to be read by a person."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and len(value.split()) >= _LONG_ENOUGH_TO_BE_PROSE:
            yield node.lineno, value


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def contract_of(path: Path) -> str:
    """The file, or the folder where its files implement one contract."""
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("models/kernels/"):
        return "models/kernels"
    folder = name.rpartition("/")[0]
    return folder if folder.endswith(_CONTRACTS) else name


def shared_names() -> dict[str, set[str]]:
    """Public classes and functions that are defined in more than one file."""
    files: dict[str, set[str]] = defaultdict(set)
    for path in _files():
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                files[node.name].add(contract_of(path))
    return {name: where for name, where in files.items() if len(where) > 1}


@cache
def _files() -> tuple[Path, ...]:
    return tuple(path for package in FLOORS for path in sources(package))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _at(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line} {what}"


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    found = [
        _at(path, line, doc.partition("\n")[0])
        for path in _files()
        for line, doc in docstrings(_tree(path))
        if first_word(doc) in _OPENERS
    ]
    assert found == []


def test_no_banned_word_is_read_by_anyone() -> None:
    found = [
        _at(path, line, word)
        for path in _files()
        for line, text in texts(path.read_text(), _tree(path))
        for word in banned_words(text)
    ]
    assert found == []


def test_no_name_has_a_banned_word() -> None:
    found = [
        _at(path, line, name) for path in _files() for line, name in defined_names(_tree(path)) if banned_name(name)
    ]
    assert found == []


def test_a_public_name_means_one_thing() -> None:
    found = shared_names()
    assert {name: files for name, files in found.items() if name not in _SHARED_NAMES} == {}
    assert _SHARED_NAMES.keys() <= found.keys(), "a name is excused that only one file defines"


@pytest.mark.parametrize("doc", ["What is left.", "Of each sequence.", "As `sample`, for a batch.", "So: four."])
def test_openers_are_found(doc: str) -> None:
    assert first_word(doc) in _OPENERS


@pytest.mark.parametrize("text", ["Whoever waits is\ntold so.", "what befell it", "It gets on with the next."])
def test_banned_words_are_found(text: str) -> None:
    assert banned_words(text)


@pytest.mark.parametrize("text", ["They are told apart by their marks.", "A surrounding bracket.", "It is foretold."])
def test_other_words_are_not(text: str) -> None:
    assert not banned_words(text)


@pytest.mark.parametrize("name", ["_tell_info", "has_begun", "AskedInputs", "settled", "NewsLog"])
def test_banned_names_are_found(name: str) -> None:
    assert banned_name(name)


@pytest.mark.parametrize("name", ["num_settled", "replaces", "renews", "basket", "intell"])
def test_other_names_are_not(name: str) -> None:
    assert not banned_name(name)
