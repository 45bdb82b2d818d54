"""Code and documents are in American English."""

import re
from pathlib import Path

import pytest

from tests.helpers.import_floors import FLOORS
from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

_FOLDERS = (*FLOORS, "tests", "benchmarks", "docs", "examples", "deploy", ".github")
_KINDS = {".py", ".md", ".cpp", ".h", ".js", ".mjs", ".css", ".html", ".yml", ".yaml", ".toml", ".sh"}
# British endings, and stems that have them. "cancelled" is not among them: OpenAI and asyncio spell it so.
_STEMS = {
    r"s(?:e[drs]?|ers?|ing|ations?)": (
        "analy apologi authori capitali categori characteri customi emphasi equali finali generali initiali locali "
        "maximi memori minimi moderni normali optimi organi paralleli penali prioriti quanti randomi reali recogni "
        "regulari seriali speciali stabili standardi summari synchroni tokeni utili vectori visuali"
    ),
    r"our(?:s|ed|ing|ites?|able|al|hood|less)?": "behavi col endeav fav flav harb hon hum lab neighb rum vap",
    r"l(?:ed|ing|ers?)": "channel equal fuel label level marshal model signal total travel tunnel",
    r"re[ds]?": "calib cent fib lit millimet kilomet met theat",
    r"ces?": "defen licen offen preten",
    r"ements?": "acknowledg judg",
    "": (
        "ageing aluminium amongst artefacts? burnt catalogued? catalogues dreamt enrol fulfil fulfils grey learnt "
        "maths mould orientated programmes sceptic skilful spelt towards whilst"
    ),
}
_BRITISH = re.compile(
    "(?:de|un|non|mis|re)?(?:"
    + "|".join(f"(?:{'|'.join(stems.split())}){ending}" for ending, stems in _STEMS.items())
    + ")"
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_MEANT = {
    ("server/metrics/table.py", "realised"),  # a metric's former name, for one version
    ("CHANGELOG.md", "realised"),
    ("tests/server/metrics/test_values.py", "realised"),
    ("docs/metrics.md", "realised"),
    ("tests/server/commands/options/test_model_entries.py", "quantisation"),  # a mistake of a user
}


def _sources() -> list[Path]:
    paths = [*ROOT.glob("*.*"), *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.*"))]
    return [path for path in paths if path.suffix in _KINDS and path != Path(__file__) and "fixtures" not in path.parts]


def british_words(text: str) -> set[str]:
    return {word for word in {each.lower() for each in _WORD.findall(text)} if _BRITISH.fullmatch(word)}


def test_no_word_is_spelled_the_british_way() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), word) for path in _sources() for word in british_words(path.read_text())
    }
    assert found - _MEANT == set()
    assert found >= _MEANT, "nothing is excused that is not there"


@pytest.mark.parametrize("word", ["dequantised", "Behaviour", "is_labelled", "centreLine", "LICENCE", "whilst"])
def test_british_words_are_found(word: str) -> None:
    assert len(british_words(f"a {word}, here")) == 1


@pytest.mark.parametrize("word", ["promised", "colon", "four", "metric", "center", "licensed", "supervised", "called"])
def test_american_words_are_not(word: str) -> None:
    assert british_words(f"a {word}, here") == set()
