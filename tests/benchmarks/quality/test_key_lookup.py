"""key_lookup: codes stand at their depths, once each, in texts of the requested length."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.quality.key_lookup import make_text

PARAGRAPHS = [f"paragraph {number} has six words." for number in range(100)]


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_each_code_stands_once_at_its_depth() -> None:
    text = make_text(PARAGRAPHS, _words(), 250, [0.0, 0.5, 1.0], seed=3)
    parts = text.body.split("\n\n")
    places = [next(n for n, part in enumerate(parts) if thing in part and code in part) for thing, code in text.codes]
    assert places == [0, 26, 52]  # of 50 paragraphs and three codes
    assert all(text.body.count(code) == 1 for _, code in text.codes)
    assert text != make_text(PARAGRAPHS, _words(), 250, [0.0, 0.5, 1.0], seed=4)


def test_too_few_paragraphs_are_refused() -> None:
    with pytest.raises(ValueError, match="have 500 tokens, and a text is to have 600"):
        make_text(PARAGRAPHS, _words(), 600, [0.5], seed=0)
