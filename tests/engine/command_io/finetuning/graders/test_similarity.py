"""Measures of how alike two texts are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.graders.faults import Ungradable
from engine.command_io.finetuning.graders.similarity import Metric, similarity

pytestmark = pytest.mark.fast

CAT = ("the cat was under the big bed", "the cat was found under the bed")
MIXED = ("A B, c d e f g h!", "a b c x e f g h")
_OWN = [metric for metric in Metric if metric not in (Metric.FUZZY_MATCH, Metric.ROUGE_L)]
_TEXTS = st.text("ab ,.Aéß猫", max_size=30)


@pytest.mark.parametrize(
    ("metric", "texts", "expected"),
    [  # of rouge-score 0.1.2 and nltk 3.10 (method2, for BLEU)
        (Metric.ROUGE_1, CAT, 0.857143),
        (Metric.ROUGE_2, CAT, 0.5),
        (Metric.ROUGE_3, CAT, 0.2),
        (Metric.ROUGE_4, CAT, 0.0),
        (Metric.ROUGE_1, MIXED, 0.875),
        (Metric.ROUGE_2, MIXED, 0.714286),
        (Metric.ROUGE_3, MIXED, 0.5),
        (Metric.ROUGE_4, MIXED, 0.2),
        (Metric.ROUGE_5, MIXED, 0.0),
        (Metric.BLEU, CAT, 0.42509),
        (Metric.BLEU, MIXED, 0.359304),
        (Metric.GLEU, CAT, 0.454545),
        (Metric.GLEU, MIXED, 0.323529),
        (Metric.GLEU, ("the cat", "the cat sat on the mat"), 0.166667),
    ],
)
def test_counts_of_ngrams_are_those_of_the_libraries(metric: Metric, texts: tuple[str, str], expected: float) -> None:
    assert similarity(metric, *texts) == pytest.approx(expected, abs=1e-6)


def test_what_rapidfuzz_measures() -> None:
    pytest.importorskip("rapidfuzz", reason="the extra 'graders' is not installed")
    assert similarity(Metric.FUZZY_MATCH, *CAT) == pytest.approx(0.833333, abs=1e-6)
    assert similarity(Metric.FUZZY_MATCH, "a", "a long reference") < 0.2  # a letter is no short way to a reward
    assert similarity(Metric.ROUGE_L, *CAT) == pytest.approx(0.857143, abs=1e-6)
    assert similarity(Metric.ROUGE_L, *MIXED) == pytest.approx(0.875, abs=1e-6)


def test_a_short_answer_that_is_right_has_the_whole_reward() -> None:
    assert [similarity(metric, "Paris", "Paris") for metric in _OWN] == [1.0] * len(_OWN)
    assert similarity(Metric.BLEU, "the cat", "the cat sat on the mat") == pytest.approx(math.exp(-2))


def test_case_and_punctuation_count_for_bleu_and_not_for_rouge() -> None:
    assert similarity(Metric.ROUGE_1, "Yes, it IS!", "yes it is") == 1.0
    assert similarity(Metric.BLEU, "Yes, it IS!", "yes it is") < 0.5


def test_each_character_of_chinese_and_japanese_is_a_word() -> None:
    assert similarity(Metric.ROUGE_1, "猫が好き", "犬が好き") == 0.75
    assert similarity(Metric.ROUGE_2, "猫が好き", "犬が好き") == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", [metric for metric in Metric if metric.is_available])
@given(text=_TEXTS, reference=_TEXTS)
def test_a_similarity_is_a_share_and_that_of_equal_texts_is_one(metric: Metric, text: str, reference: str) -> None:
    assert 0.0 <= similarity(metric, text, reference) <= 1.0 + 1e-9
    assert similarity(metric, text, text) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [metric for metric in Metric if metric.is_available])
def test_texts_that_would_take_long_are_not_compared(metric: Metric) -> None:
    text = "word " * 6000
    assert similarity(metric, text, text) == pytest.approx(1.0)
    with pytest.raises(Ungradable, match="a text has 100,000 characters"):
        similarity(metric, "a" * 100_000, "a")
