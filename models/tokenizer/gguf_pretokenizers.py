"""Pre-tokenizers of byte-level GGUF vocabularies, which split text into words, by tokenizer.ggml.pre."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class WordSplit:
    """Rules that split text into words. Each pattern splits the pieces of the previous one, matches and gaps alike."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is itself a token is taken whole
    adds_bos: bool = False  # if the metadata lack add_bos_token


def _ranges(points: str) -> str:
    """Convert ranges of code points to the syntax of a regular expression's character class."""
    return re.sub(r"[0-9A-F]+", lambda point: rf"\x{{{point[0]}}}", points).replace(" ", "")


def _modern_words(letters: str, digits: str, not_symbol: str) -> str:
    """Return the regex that splits words for Llama 3, Qwen and similar models; the arguments are regex classes."""
    return rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?[^\s{not_symbol}]+[\r\n]*|{_SPACES}"


def _cased_words(digits: str, after_symbols: str, *, ending: str = "", excludes: str = "") -> str:
    """Return a regex that splits words like GPT-4o's: capitals, then small letters.

    after_symbols: characters that may follow a run of symbols. ending: regex of a word's end. excludes: characters that
    count neither as capitals nor as small letters.
    """
    capitals, small = (rf"[{case}\p{{Lm}}\p{{Lo}}\p{{M}}{excludes}]" for case in (r"\p{Lu}\p{Lt}", r"\p{Ll}"))
    before = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{before}{capitals}*{small}+{ending}|{before}{capitals}+{small}*{ending}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[{after_symbols}]*|{_SPACES}"


_GPT2 = WordSplit((_GPT2_WORDS,))
_SINGLE_DIGITS = WordSplit((r"\p{N}", _GPT2_WORDS))
_QWEN2 = WordSplit((_modern_words(r"\p{L}", r"\p{N}", r"\p{L}\p{N}"),))
_QWEN35 = WordSplit((_modern_words(r"[\p{L}\p{M}]", r"\p{N}", r"\p{L}\p{M}\p{N}"),))
_LLAMA3_WORDS = _modern_words(r"\p{L}", r"\p{N}{1,3}", r"\p{L}\p{N}")
_LLAMA3 = WordSplit((_LLAMA3_WORDS,), ignore_merges=True, adds_bos=True)
_GPT4O = WordSplit((_cased_words(r"\p{N}{1,3}", r"\r\n/", ending=f"{_CONTRACTIONS}?"),))
_TEKKEN = WordSplit((_cased_words(r"\p{N}", r"\r\n/"),), ignore_merges=True, adds_bos=True)
_KIMI_WORDS = _cased_words(r"\p{N}{1,3}", r"\r\n", ending=f"{_CONTRACTIONS}?", excludes=r"&&[^\p{Han}]")
_DEFAULT = WordSplit((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_FALCON = WordSplit((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_WORDS, r"[0-9][0-9][0-9]"))
_BLOOM = WordSplit((rf" ?[^(\s|.,!?{_ranges('2026 3002 FF0C 3001 964 6D4 60C')})]+",))


# DeepSeek's first vocabularies list the cased letters of an older Unicode version, and some more alphabets.
_CASED = _ranges(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F "
    "104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_EASTERN = _ranges("4E00-9FA5 800-4E00 AC00-D7FF")
_SYMBOLS = _ranges("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002")
_DEEPSEEK = WordSplit(
    (r"[\r\n]", rf"\s?[{_CASED}]+", rf"\s?[{_SYMBOLS}]+", r"\s+$", rf"[{_EASTERN}]+", r"\p{N}+"),
)
_DEEPSEEK_CODER = WordSplit((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", rf"[{_EASTERN}]+", r"\p{N}"))
_HAN_AND_KANA = _ranges("4E00-9FA5 3040-309F 30A0-30FF")
_DEEPSEEK_V3_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_DEEPSEEK_V3 = WordSplit((r"\p{N}{1,3}", rf"[{_HAN_AND_KANA}]+", _DEEPSEEK_V3_WORDS))

WORD_SPLITS: Mapping[str, WordSplit] = {
    "default": _DEFAULT,
    "bloom": _BLOOM,
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-llm": _DEEPSEEK,
    "deepseek-v3": _DEEPSEEK_V3,
    "falcon": _FALCON,
    "glm4": WordSplit((_LLAMA3_WORDS,), ignore_merges=True),
    "kimi-k2": WordSplit((rf"\p{{Han}}+|{_KIMI_WORDS}",)),
    "qwen35": _QWEN35,
    "tekken": _TEKKEN,
    **dict.fromkeys(("chatglm-bpe", "dbrx", "smaug-bpe"), WordSplit((_LLAMA3_WORDS,))),
    **dict.fromkeys(("codeshell", "command-r", "exaone", "refact", "smollm", "starcoder"), _SINGLE_DIGITS),
    **dict.fromkeys(("deepseek-r1-qwen", "qwen2", "stablelm2"), _QWEN2),
    **dict.fromkeys(("falcon3", "lfm2", "llama-bpe", "llama-v3", "llama3"), _LLAMA3),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
    **dict.fromkeys(("gpt-2", "modern-bert", "mpt", "olmo", "phi-2", "roberta-bpe"), _GPT2),
}
