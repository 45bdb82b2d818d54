"""Files that the documents, comments and docstrings name are there."""

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.import_floors import FLOORS
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

DOCUMENTS = sorted(
    [
        *(*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / package / "README.md" for package in FLOORS)),
        *(ROOT / "tests" / "README.md", ROOT / "benchmarks" / "README.md"),
    ]
)
HISTORY = ROOT / "CHANGELOG.md"  # names what was
# Of other projects, and placeholders of what a reader writes.
FOREIGN = re.compile(
    r"(config|configuration_x|modeling_x|convert_hf_to_gguf|x|x_variants|make_NAME|test_NAME|NAME|server)\.\w+$"
)
# Where a document that speaks of nothing else need not repeat the path.
_USUAL = (ROOT / "models" / "kernels" / "cpu" / "src", ROOT / "models" / "families")
_PATH = re.compile(r"`([\w./-]+\.(?:py|cpp|h|md|txt|toml))`")

# Sources and documents, in pictures and links too; what is before the name may be a part of its path.
_SOURCE = re.compile(r"(?<![\w/.*-])(?:\.\./)*((?:[\w-]+/)*[\w-]+\.(?:py|md|cpp|h))(?!\w|\.\w)")
_FOLDERS = (*FLOORS, "benchmarks", "tests")
_ALL_FOLDERS = (*_FOLDERS, "docs", "examples")
_THERE = {
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.*"),
        *(path for folder in (*_FOLDERS, "docs", "examples") for path in (ROOT / folder).rglob("*.*")),
    )
}
_ENDINGS = {"/".join(parts[first:]) for path in _THERE for parts in [path.split("/")] for first in range(len(parts))}
_FOREIGN_SOURCE = re.compile(r"llama\.cpp$|transformer\.h$|kernels\.h$")  # the last is made by a test


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path != HISTORY], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_that_are_named_exist(document: Path) -> None:
    named = {name for name in _PATH.findall(document.read_text()) if not FOREIGN.search(name)}
    folders = [ROOT, document.parent, *(ROOT / package for package in FLOORS), *_USUAL]
    assert {name for name in named if not any((folder / name).is_file() for folder in folders)} == set()


def test_the_readme_ends_with_a_way_to_every_document() -> None:
    _, more = (ROOT / "README.md").read_text().split("\n## More\n")
    assert set(re.findall(r"\(docs/([\w-]+\.md)\)", more)) == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_sources_that_documents_name_anywhere_exist() -> None:
    texts = {path: path.read_text() for path in DOCUMENTS if path != HISTORY}
    assert [(str(path.relative_to(ROOT)), name) for path, text in texts.items() for name in _missing(text)] == []


@pytest.mark.parametrize("folder", _FOLDERS)
def test_sources_that_comments_and_docstrings_name_exist(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    suspects = [path for path in paths if _missing(path.read_text())]  # telling prose from code takes a while
    texts = {path: "\n".join(_prose(path)) for path in suspects}
    assert [(str(path.relative_to(ROOT)), name) for path, text in texts.items() for name in _missing(text)] == []


def _missing(text: str) -> list[str]:
    named = _SOURCE.findall(text)
    return [
        name for name in named if name not in _ENDINGS and not FOREIGN.search(name) and not _FOREIGN_SOURCE.search(name)
    ]


def _prose(path: Path) -> Iterator[str]:
    """Comments, and strings of three quotes."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and '"""' in token.string):
                yield token.string
