"""Numbers with their nouns."""

import pytest

from engine.wording import counted

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((0, "file"), "0 files"),
        ((1, "file"), "1 file"),
        ((2_000, "file"), "2,000 files"),
        ((1, "copy", "copies"), "1 copy"),
        ((3, "copy", "copies"), "3 copies"),
    ],
)
def test_counted(words: tuple[int, str], text: str) -> None:
    assert counted(*words) == text
