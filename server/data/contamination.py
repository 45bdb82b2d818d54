"""EvaluationIndex: finds training lines that contain text of evaluation files."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.data.duplicates import line_key
from server.data.lines import DataLine
from server.data.words import window, words_of

COVERED = 8  # words of the n-grams whose coverage counts
_COVERAGE = 0.5  # share of a text's n-grams that makes a leak of it; all of them in a text without a long n-gram
_LEAST_WHOLE = 3  # words of a question that is compared whole
_MAX_LINES = 10  # of the evaluation: an n-gram at the edge of a text in more of them is an instruction that all share
_EDGE = 32  # first and last words of a text, where instructions stand: in the middle are passages that questions share
_SHARED = 0.5  # of a file's lines, and more than _MANY of them, make an instruction of an n-gram wherever it stands
_MANY = 50  # a passage has fewer questions


@dataclass(frozen=True, slots=True)
class Leak:
    """One match. ngram: the words that both have. line: number of the evaluation's line, in the file `name`."""

    name: str
    line: int
    ngram: str


@dataclass(slots=True)
class _Text:
    name: str
    line: int
    num_grams: int  # of COVERED words, besides instructions
    share: float  # of these n-grams that makes a leak of it


class EvaluationIndex:
    """N-grams of evaluation files: any of `ngram` words (Brown et al. 2020), half of a text's n-grams of 8 words, and
    questions of fewer words whole. Twice as many characters count in scripts without blanks."""

    def __init__(self, ngram: int) -> None:
        self._ngram = ngram
        self._long: dict[int, dict[str, int]] = {}  # width -> n-gram -> its text
        self._short: dict[int, dict[str, list[int]]] = {}  # width -> n-gram -> its texts
        self._whole: dict[str, int] = {}
        self._any: dict[int, set[str]] = {}  # width -> all n-grams of COVERED words: a line without one has no leak
        self._texts: list[_Text] = []
        self._num_lines: Counter[str] = Counter()  # at whose edges an n-gram stands
        self._keys: set[bytes] = set()  # of lines
        self._file_lines: Counter[str] = Counter()
        self._is_complete = True  # whether instructions were dropped since the last line was added

    def add(self, name: str, line: DataLine) -> None:
        """Index a line of the evaluation file `name`, unless an earlier one has the same texts."""
        if (key := line_key({"segments": line.segments})) in self._keys:
            return
        self._keys.add(key)
        self._file_lines[name] += 1
        self._is_complete = False
        seen: set[str] = set()
        questions = {line.question} if line.question else {each for each in line.segments if line.kind == "text"}
        for segment, words in zip(line.segments, line.segment_words, strict=True):
            text = len(self._texts)
            width = window(words, self._ngram)
            edge = window(words, _EDGE)
            for gram in (long := _grams(words, width)):
                self._long.setdefault(width, {}).setdefault(gram, text)
            seen.update(_at_edges(long, edge - width))
            short = window(words, COVERED)
            is_question = segment in questions
            # A short answer says nothing: many questions have the same one.
            all_grams = set(listed := _grams(words, short))
            self._any.setdefault(short, set()).update(all_grams)
            grams = all_grams if is_question or len(words) >= width else set()
            for gram in grams:
                self._short.setdefault(short, {}).setdefault(gram, []).append(text)
            seen |= grams.intersection(_at_edges(listed, edge - short))
            if is_question and window(words, _LEAST_WHOLE) <= len(words) < short:
                self._whole.setdefault(" ".join(words), text)
            share = _COVERAGE if len(words) >= width else 1.0
            self._texts.append(_Text(name, line.number, len(grams), share))
        self._num_lines.update(seen)

    def leak(self, line: DataLine) -> Leak | None:
        """Return the first match of a training line, or None."""
        if not self._is_complete:
            self._drop_instructions()
        question = line.question or (line.segments[0] if line.segments else "")
        if self._whole and (text := self._whole.get(whole := " ".join(words_of(question)))) is not None:
            return self._found(text, whole)
        for words in line.segment_words:
            if all(grams.isdisjoint(_grams(words, width)) for width, grams in self._any.items()):
                continue
            for width, index in self._long.items():
                for gram in _grams(words, width):
                    if gram in index and self._num_lines[gram] <= _MAX_LINES:
                        return self._found(index[gram], gram)
            for width, texts in self._short.items():
                if (found := self._covered(words, width, texts)) is not None:
                    return found
        return None

    def _drop_instructions(self) -> None:
        """Drop the n-grams of instructions that more than half of a file's lines, and fifty, have, however long the
        instructions are, so that what a text has besides decides whether it leaks."""
        self._is_complete = True
        for width, texts in self._short.items():
            size = width // COVERED * self._ngram
            shared = {gram for gram, found in texts.items() if len(found) > _MANY and self._is_shared(found)}
            for gram in shared:
                for text in texts.pop(gram):
                    each = self._texts[text]
                    each.num_grams -= 1
                    if each.num_grams < size:  # a question shorter than an n-gram leaks as a whole, as without them
                        each.share = 1.0
            if shared and (long := self._long.get(size)):
                self._long[size] = {
                    gram: text for gram, text in long.items() if shared.isdisjoint(_grams(gram.split(" "), width))
                }

    def _is_shared(self, texts: Sequence[int]) -> bool:
        counts = Counter(name for name, _ in {(self._texts[text].name, self._texts[text].line) for text in texts})
        return any(count > max(_MANY, _SHARED * self._file_lines[name]) for name, count in counts.items())

    def _covered(self, words: Sequence[str], width: int, texts: dict[str, list[int]]) -> Leak | None:
        grams = [gram for gram in dict.fromkeys(_grams(words, width)) if gram in texts]
        counts = Counter(text for gram in grams if self._num_lines[gram] <= _MAX_LINES for text in texts[gram])
        for text, count in counts.items():
            if count >= self._texts[text].share * self._texts[text].num_grams:
                return self._found(text, next(gram for gram in grams if text in texts[gram]))
        return None

    def _found(self, text: int, gram: str) -> Leak:
        return Leak(self._texts[text].name, self._texts[text].line, gram)


def _at_edges(grams: Sequence[str], last: int) -> Iterable[str]:
    """Return the n-grams up to place `last` from the beginning, and from the end."""
    return (gram for place, gram in enumerate(grams) if min(place, len(grams) - 1 - place) <= last)


def _grams(words: Sequence[str], width: int) -> list[str]:
    """Return the n-grams of `width` words as slices of one text."""
    if len(words) < width:
        return []
    text = " ".join(words)
    starts = [0, *itertools.accumulate(len(word) + 1 for word in words)]
    return [text[start : end - 1] for start, end in zip(starts, starts[width:], strict=False)]
