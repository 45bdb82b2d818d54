"""Words of a text, and the share of them that two texts have in common."""

import re
import unicodedata
from collections.abc import Sequence

_BLOCK = 8192  # words of a text whose places are bits of one number: memory is quadratic within a block alone
# Scripts without blanks between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer): each character is a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Vowel signs of Indic scripts, points of Arabic and Hebrew, accents, joiners: within a word, and no letters for `re`.
_MARKS = "".join(
    chr(code)
    for code in (*range(0x300, 0xE00), *range(0xF00, 0x1000), *range(0x1700, 0x1780), *range(0x1800, 0x2110))
    if unicodedata.category(chr(code)).startswith("M") or code in (0x200C, 0x200D)
)
_LETTER = rf"[^\W_{UNSPACED}]"
_WORD = re.compile(rf"[{UNSPACED}]|{_LETTER}+(?:[{_MARKS}]{_LETTER}*|['’]{_LETTER}+)*")


def normalized(text: str) -> str:
    """Return the text without differences of case and character width."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words_of(text: str) -> list[str]:
    """Return the words of a text in order, without case, width and punctuation."""
    return _WORD.findall(normalized(text))


def is_unspaced(words: Sequence[str]) -> bool:
    """Whether most words are characters of a script without blanks, where a word has about two."""
    if "".join(words).isascii():
        return False
    return 2 * len([word for word in words if len(word) == 1 and word >= "\u0e00"]) > len(words)


def window(words: Sequence[str], size: int) -> int:
    """Return the number of words in this text that say as much as `size` words of a spaced script."""
    return 2 * size if is_unspaced(words) else size


def shared_in_order(one: Sequence[str], other: Sequence[str], least: float) -> float:
    """Return the longest common subsequence's share of the longer text; 0 if it cannot reach `least`.

    The bit-parallel algorithm (Hyyrö 2004): bit i of `row` is 0 where a common subsequence grows at word i of `one`.
    Blocks of `one` are taken one after the other; the sum at each word of `other` carries into the next block.
    """
    longest = max(len(one), len(other))
    if min(len(one), len(other)) < least * longest or not longest:
        return 0.0
    num_common = 0
    carries = bytearray(len(other))
    for start in range(0, len(one), _BLOCK):
        block = one[start : start + _BLOCK]
        masks: dict[str, int] = {}
        for place, word in enumerate(block):
            masks[word] = masks.get(word, 0) | 1 << place
        full = (1 << len(block)) - 1
        row = full
        for place, word in enumerate(other):
            carry = carries[place]
            if (mask := masks.get(word, 0)) or carry:
                common = row & mask
                total = row + common + carry
                carries[place] = total > full
                row = (total | (row - common)) & full
        num_common += len(block) - row.bit_count()
    return num_common / longest
