"""similarity: how alike two texts are, from 0 to 1, by the metrics of OpenAI's text_similarity.

ROUGE compares words without case and punctuation, BLEU and GLEU with both; each Chinese or Japanese character is a
word. `fuzzy_match` and ROUGE-L need rapidfuzz. The other metrics are written here: no small and maintained library has
them.
"""

import enum
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Sequence

from engine.command_io.finetuning.graders.faults import FaultKind, Ungradable

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_TOKENS = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")
_MAX_ORDER = 4  # of BLEU's and GLEU's n-grams
MAX_CHARACTERS = 1 << 15  # of each text: the time of some metrics grows with the product of both lengths


class Metric(enum.StrEnum):
    FUZZY_MATCH = "fuzzy_match"  # rapidfuzz's ratio
    BLEU = "bleu"
    GLEU = "gleu"
    ROUGE_1 = "rouge_1"
    ROUGE_2 = "rouge_2"
    ROUGE_3 = "rouge_3"
    ROUGE_4 = "rouge_4"
    ROUGE_5 = "rouge_5"
    ROUGE_L = "rouge_l"

    @property
    def is_available(self) -> bool:
        """Whether the library that the metric needs is installed."""
        needs_library = self in (Metric.FUZZY_MATCH, Metric.ROUGE_L)
        return not needs_library or importlib.util.find_spec("rapidfuzz") is not None


def similarity(metric: Metric, text: str, reference: str) -> float:
    """Return the similarity of a text to a reference. Raises Ungradable for texts that are too long."""
    if (longer := max(len(text), len(reference))) > MAX_CHARACTERS:
        raise Ungradable(
            FaultKind.OTHER, f"a text has {longer:,} characters; up to {MAX_CHARACTERS:,} are compared for similarity"
        )
    match metric:
        case Metric.FUZZY_MATCH:
            from rapidfuzz.fuzz import ratio

            return ratio(text, reference) / 100
        case Metric.BLEU:
            return _bleu(_TOKENS.findall(text), _TOKENS.findall(reference))
        case Metric.GLEU:
            return _gleu(_TOKENS.findall(text), _TOKENS.findall(reference))
    words, wanted = _WORDS.findall(text.casefold()), _WORDS.findall(reference.casefold())
    if metric is Metric.ROUGE_L:
        return _rouge_l(words, wanted)
    return _rouge(words, wanted, int(metric.value.removeprefix("rouge_")))


def _bleu(tokens: Sequence[str], wanted: Sequence[str]) -> float:
    """Return BLEU of one sentence (Papineni et al. 2002). For n-grams of two tokens and more, 1 is added to each count
    (Lin and Och 2004), so that a short answer is not 0."""
    if not tokens or not wanted:
        return float(tokens == wanted)
    logarithm = 0.0
    for order in range(1, _MAX_ORDER + 1):
        counts = _ngrams(tokens, order)
        added = int(order > 1)
        matches, total = (counts & _ngrams(wanted, order)).total() + added, counts.total() + added
        if not matches:
            return 0.0
        logarithm += math.log(matches / total) / _MAX_ORDER
    return math.exp(logarithm + min(0.0, 1 - len(wanted) / len(tokens)))


def _gleu(tokens: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the lower of precision and recall over all n-grams (Wu et al. 2016)."""
    if not tokens or not wanted:
        return float(tokens == wanted)
    matches = total = 0
    for order in range(1, _MAX_ORDER + 1):
        counts, others = _ngrams(tokens, order), _ngrams(wanted, order)
        matches += (counts & others).total()
        total += max(counts.total(), others.total())
    return matches / total


def _rouge(words: Sequence[str], wanted: Sequence[str], order: int) -> float:
    """Return F1 of the n-grams of one order (Lin 2004)."""
    counts, others = _ngrams(words, order), _ngrams(wanted, order)
    if not counts or not others:
        return float(words == wanted)  # too short for any
    return 2 * (counts & others).total() / (counts.total() + others.total())


def _rouge_l(words: Sequence[str], wanted: Sequence[str]) -> float:
    """Return F1 of the longest common subsequence of words (Lin 2004)."""
    from rapidfuzz.distance import LCSseq

    if not words or not wanted:
        return float(words == wanted)
    return 2 * LCSseq.similarity(words, wanted) / (len(words) + len(wanted))


def _ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))
