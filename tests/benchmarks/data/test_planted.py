"""Files with planted faults: the faults are those that are meant, and what is left has none."""

import random
from collections import Counter

import pytest

from benchmarks.data.planted import made, with_changes, without_copies
from benchmarks.data.sentences import personal_data
from server.data.personal_data import mask_text
from server.data.words import shared_in_order

pytestmark = pytest.mark.fast


def test_personal_data_has_right_check_digits() -> None:
    for seed in range(20):
        for kind, text in personal_data(random.Random(seed)):
            counts: Counter[str] = Counter()
            assert mask_text(text, counts) == f"[{kind.upper()}]"


def test_the_share_of_changed_words_is_that_of_the_words() -> None:
    text = "\n".join(f"  x{number} = f(y{number})" for number in range(50))
    changed = with_changes(text, 0.1, random.Random(1), ["other"], "code")
    assert changed.count("other") == 15
    assert shared_in_order(text.split(), changed.split(), 0.5) < 1


def test_texts_that_share_a_passage_are_left_out() -> None:
    lines = list(made("German")(random.Random(1)))[:20]
    copy = ("Wer?", lines[3][1])
    assert without_copies([*lines, copy]) == without_copies(lines)
    assert len(without_copies(lines)) == len(set(without_copies(lines))) > 10
