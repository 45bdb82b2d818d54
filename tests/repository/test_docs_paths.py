"""Files that the documents name are there."""

import re
from pathlib import Path

import pytest

from tests.helpers.import_floors import FLOORS
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / package / "README.md" for package in FLOORS)]
)
HISTORY = ROOT / "CHANGELOG.md"  # names what was
# Of other projects, and placeholders of what a reader writes.
FOREIGN = re.compile(
    r"(config|configuration_x|modeling_x|convert_hf_to_gguf|x|x_variants|make_NAME|test_NAME|NAME|server)\.\w+$"
)
# Where a document that speaks of nothing else need not repeat the path.
_USUAL = (ROOT / "models" / "kernels" / "cpu" / "src", ROOT / "models" / "families")
_PATH = re.compile(r"`([\w./-]+\.(?:py|cpp|h|md|txt|toml))`")


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path != HISTORY], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_that_are_named_exist(document: Path) -> None:
    named = {name for name in _PATH.findall(document.read_text()) if not FOREIGN.search(name)}
    folders = [ROOT, document.parent, *(ROOT / package for package in FLOORS), *_USUAL]
    assert {name for name in named if not any((folder / name).is_file() for folder in folders)} == set()
