"""Judgment of an answer's end: whether it stops within a sentence or a block of code."""

import re

from server.data.words import is_unspaced, words_of

_OPEN_END = re.compile(r"[\w,、，:：(（\[「『–&=+/<]")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•・|#>]|\d+[.)]|[A-Za-z][.)])")
# Words that no sentence ends with, and signs after which something follows. ":(" is a face.
_UNFINISHED = re.compile(
    r"(?:(?<![\w'-])(?:[Tt]he|and|or|nor|because|than|if|my|your|our|their|its|every|whose"
    r"|und|oder|weil|dass|eine|einen)"
    r"|[,、，「『]|[A-Za-z]{2}[:：]|(?<![:;-])[(（\[])$"
)
# Words that end few sentences.
_WEAK_END = re.compile(
    r"(?<![\w'-])(?:a|an|as|of|to|in|for|with|from|by|at|on|into|is|are|was|were|be|can|will|must|that|which|this|these"
    r"|der|im|zum|zur|von|für|ist|sind|wird)$"
)
_SENTENCE_END = re.compile(r"(?:(?<=[^\W\d_]{3})|(?<=\bNo))[.!?][\"'”’)]*\s+|[。！？]")
_CODE = re.compile(r"[`{};=<>$|\\]|\w\(|::|--|[/@]\w*$|://\S*$|\d$")
# Least words, so that the end of fewer says nothing. A character of a script without blanks counts as half a word.
_LEAST = 3
_LEAST_LAST_LINE = 8  # a shorter line is a signature, a title or a result
_LEAST_AFTER_SENTENCE = 5
_LEAST_WEAK = 12
_LEAST_SENTENCE = 20  # a shorter one is a title, or written by a person who leaves the full stop out
_LEAST_TEXT = 30


def stops_early(answer: str) -> bool:
    """Whether an answer ends without the sign, or the closing of a block of code, that must come. A name, number,
    title, list, address or line of code needs none, nor does a short sentence."""
    answer = answer.rstrip()
    if answer.count("```") % 2:
        return True
    if "\u0e00" <= answer[-1:] <= "\u0eff":  # Thai and Lao have no sign for the end of a sentence
        return False
    last = answer.rpartition("\n")[2].strip()
    if not _OPEN_END.match(answer[-1:]) or "```" in last:
        return False
    words = words_of(answer)
    num_words = len(words) / (2 if is_unspaced(words) else 1)
    has_open_quote = last.startswith('"') and last.count('"') == 1
    if num_words >= _LEAST and (has_open_quote or _UNFINISHED.search(last)):
        return True
    if _LIST_ITEM.search(last):
        return False
    return _is_long_without_end(last, num_words) or _is_unfinished_sentence(last)


def _is_long_without_end(last: str, num_words: float) -> bool:
    return num_words >= _LEAST_TEXT and _num_words(last) >= _LEAST_LAST_LINE


def _is_unfinished_sentence(last: str) -> bool:
    """Whether the last line is prose, also of a short answer, and its last sentence has no end."""
    sentence = _SENTENCE_END.split(last)[-1]
    if sentence[:1].islower() or sentence[:1].isdigit() or _CODE.search(last) or _is_title(sentence):
        return False
    num_words = _num_words(sentence)
    if num_words < 3 * last.count(","):  # a list
        return False
    if sentence != last and num_words >= _LEAST_AFTER_SENTENCE:  # the sentences before it have ends
        return True
    return num_words >= (_LEAST_WEAK if _WEAK_END.search(sentence) else _LEAST_SENTENCE)


def _is_title(text: str) -> bool:
    words = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 3]
    return sum(word[0].isupper() for word in words) > 0.6 * len(words)


def _num_words(text: str) -> float:
    words = words_of(text)
    return len(words) / (2 if is_unspaced(words) else 1)
