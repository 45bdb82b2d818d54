"""SECURITY.md: each promise has tests, and they are there."""

import re

import pytest

from tests.helpers.repository import ROOT

pytestmark = pytest.mark.fast

_PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
_PROMISES = re.findall(r"^- \*\*(.+?)\.?\*\*", _PAGE.partition("\n## What it does not do")[0], re.MULTILINE)
_ROWS = dict(re.findall(r"^\| (.+?) \| (`tests/.+?) \|$", _PAGE.partition("\n## How it is tested")[2], re.MULTILINE))


def test_every_promise_has_a_row_of_tests() -> None:
    assert len(_PROMISES) >= 10
    assert list(_ROWS) == _PROMISES


@pytest.mark.parametrize("promise", _ROWS)
def test_the_tests_of_a_promise_are_there(promise: str) -> None:
    files = re.findall(r"`([^`]+)`", _ROWS[promise])
    assert files
    for file in files:
        assert re.search(r"^(async )?def test_", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), file
