"""Pre-tokenizers of GGUF vocabularies with merges, which split text into words, by tokenizer.ggml.pre.

The names are llama.cpp's. Where llama.cpp approximates the expression of a model's own tokenizer.json (letters without
their case, whitespace before digits), the original is used.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# One line break at a time
_SINGLE_BREAKS = r"\s*[\r\n]|\s+(?!\S)|\s+"
# Spaces in runs of powers of two
_HALVED_SPACES = "|".join((r"\s*[\r\n]+", *(rf"\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1)), r"\s{1,2}(?!\S)", r"\s"))


class Alphabet(Enum):
    """How the entries of a vocabulary spell text."""

    BYTES = auto()  # a letter for each byte, as in GPT-2
    METASPACE = auto()  # characters, with "▁" for a space, and <0xE9> for each byte of a character without an entry
    WORDS = auto()  # characters; whitespace separates words, and no entry spells it


@dataclass(frozen=True, slots=True)
class WordSplit:
    """Rules that split text into words. Each pattern splits the pieces of the previous one, matches and gaps alike."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is itself a token is taken whole
    adds_bos: bool = False  # if the metadata lack add_bos_token
    alphabet: Alphabet = Alphabet.BYTES
    lines_begin_with_space: bool = False  # "▁" comes before each line, and each "▁" begins a word


def _ranges(points: str) -> str:
    """Convert ranges of code points to the syntax of a regular expression's character class."""
    return re.sub(r"[0-9A-F]+", lambda point: rf"\x{{{point[0]}}}", points).replace(" ", "")


def _modern_words(
    letters: str,
    digits: str,
    not_symbol: str,
    *,
    before: str = f"{_CONTRACTIONS}|",
    after_symbols: str = r"[\r\n]*",
    spaces: str = _SPACES,
) -> str:
    """Return the regex that splits words for Llama 3, Qwen and similar models; the arguments are regexes or classes.

    before: alternatives that come first. after_symbols: what a run of symbols may end with.
    """
    return rf"{before}[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?[^\s{not_symbol}]+{after_symbols}|{spaces}"


def _cased_words(digits: str, after_symbols: str, *, ending: str = "", excludes: str = "") -> str:
    """Return a regex that splits words like GPT-4o's: capitals, then small letters.

    after_symbols: characters that may follow a run of symbols. ending: regex of a word's end. excludes: characters that
    count neither as capitals nor as small letters.
    """
    capitals, small = (rf"[{case}\p{{Lm}}\p{{Lo}}\p{{M}}{excludes}]" for case in (r"\p{Lu}\p{Lt}", r"\p{Ll}"))
    before = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{before}{capitals}*{small}+{ending}|{before}{capitals}+{small}*{ending}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[{after_symbols}]*|{_SPACES}"


def _threes_from_the_right(digit: str) -> tuple[str, str]:
    """Return patterns that split a piece of only digits into threes, where the first may be shorter: 1 234 567.

    Other pieces stay whole. No pattern looks ahead from each of a number's digits, which would take quadratic time.
    """
    return rf"\A{digit}{{1,2}}(?=(?:{digit}{{3}})++\z)", rf"\A{digit}*+(?!\z)[\s\S]*|{digit}{{3}}"


_GPT2 = WordSplit((_GPT2_WORDS,))
_SINGLE_DIGITS = WordSplit((r"\p{N}", _GPT2_WORDS))
_QWEN2_WORDS = _modern_words(r"\p{L}", r"\p{N}", r"\p{L}\p{N}")
_QWEN2 = WordSplit((_QWEN2_WORDS,))
_QWEN35 = WordSplit((_modern_words(r"[\p{L}\p{M}]", r"\p{N}", r"\p{L}\p{M}\p{N}"),))
_LLAMA3_WORDS = _modern_words(r"\p{L}", r"\p{N}{1,3}", r"\p{L}\p{N}")
_LLAMA3 = WordSplit((_LLAMA3_WORDS,), ignore_merges=True, adds_bos=True)
_JAIS2 = WordSplit((_modern_words(r"\p{L}", r"\p{N}{1,3}", r"\p{L}\p{N}", spaces=_HALVED_SPACES),))
_BAILING = WordSplit((_modern_words(r"\p{L}", r"\p{N}", r"\p{L}\p{N}", spaces=_SINGLE_BREAKS),))
_SEED_CODER = WordSplit((_modern_words(r"\p{L}", r"\p{N}", r"\p{L}\p{N}", after_symbols=""),))
_UFAKZEKA = WordSplit((_modern_words(r"\p{L}", r"\p{N}", r"\p{L}\p{N}", before=""),))
_LAGUNA = WordSplit((r"\n+", _QWEN2_WORDS))
_MINICPM5 = WordSplit((r"\p{N}{1,3}", _modern_words(r"\p{L}", r"\p{N}+", r"\p{L}\p{N}")), ignore_merges=True)
# A run of words with single spaces between them is one word.
_SPACED_WORDS = r"(?:\p{L}\p{M}*(?: ?\p{L}\p{M}*)*)"
_EXAONE_MOE = WordSplit(
    (_modern_words(_SPACED_WORDS, r"\p{N}", r"\p{L}\p{N}", after_symbols=r"[\r\n/]?", spaces=_SINGLE_BREAKS),)
)
_GPT4O_WORDS = _cased_words(r"\p{N}{1,3}", r"\r\n/", ending=f"{_CONTRACTIONS}?")
_GPT4O = WordSplit((_GPT4O_WORDS,))
_TEKKEN = WordSplit((_cased_words(r"\p{N}", r"\r\n/"),), ignore_merges=True, adds_bos=True)
_KIMI_WORDS = _cased_words(r"\p{N}{1,3}", r"\r\n", ending=f"{_CONTRACTIONS}?", excludes=r"&&[^\p{Han}]")
_TINY_AYA = WordSplit((r"(?<!\d)\d++\b", *_threes_from_the_right(r"\d"), _GPT4O_WORDS))
_SUPERBPE = WordSplit((r"\p{N}+", *_threes_from_the_right(r"\d")))
_DEFAULT = WordSplit((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_FALCON = WordSplit((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_WORDS, r"[0-9][0-9][0-9]"))
_BLOOM_WORDS = rf" ?[^(\s|.,!?{_ranges('2026 3002 FF0C 3001 964 6D4 60C')})]+"
_CHAMELEON = WordSplit(
    (
        r"<sentinel:[0-9]+>",
        r"IMGIMG[A-I]{1,4}Z",
        r"[\t\n]|    |  ",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        _GPT2_WORDS,
    ),
    adds_bos=True,
)
_METASPACE = WordSplit((), alphabet=Alphabet.METASPACE)


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
    (r"[\r\n]", rf"\s?[{_CASED}]+", rf"\s?[{_SYMBOLS}]+", r"(?<!\s)\s+$", rf"[{_EASTERN}]+", r"\p{N}+"),
)
_DEEPSEEK_CODER = WordSplit((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", rf"[{_EASTERN}]+", r"\p{N}"))
_HAN_AND_KANA = _ranges("4E00-9FA5 3040-309F 30A0-30FF")
_DEEPSEEK_V3_LETTERS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
_DEEPSEEK_V3_WORDS = rf"{_DEEPSEEK_V3_LETTERS}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_DEEPSEEK_V3 = WordSplit((r"\p{N}{1,3}", rf"[{_HAN_AND_KANA}]+", _DEEPSEEK_V3_WORDS))
_SPARK = WordSplit(
    (
        r"\p{N}{1,3}",
        rf"[{_HAN_AND_KANA}]+",
        rf"{_DEEPSEEK_V3_LETTERS}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
        r"\p{N}",
    )
)
# Scripts without spaces between words, from Thai to Hangul
_UNSPACED = _ranges(
    "4E00-9FFF 3400-4DBF F900-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF E40-E7F E80-EFF 1780-17FF 1000-109F "
    "AA60-AA7F A9E0-A9FF AC00-D7AF 1100-11FF"
)
_AFMOE = WordSplit((r"\p{N}+", *_threes_from_the_right(r"\p{N}"), rf"[{_UNSPACED}]+", _DEEPSEEK_V3_WORDS))
_HANGUL, _BOPOMOFO = _ranges("AC00-D7A3 3131-318E"), _ranges("3105-312F")
_WIDE_SYMBOLS = _ranges("FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F")
_YOUTU = WordSplit(
    (
        rf"[{_HANGUL}]+|[{_WIDE_SYMBOLS}]+|[{_BOPOMOFO}]+|[{_HAN_AND_KANA}]+",
        _cased_words(r"\p{N}", r"\r\n/", ending=f"{_CONTRACTIONS}?"),
    ),
    ignore_merges=True,
)

_NAMES: Mapping[WordSplit, str] = {
    _GPT2: "a.x-4.0 exaone4 gigachat gpt-2 granite-docling jais jina-de jina-es jina-v1-en jina-v2-code jina-v2-de "
    "jina-v2-es mellum modern-bert mpt olmo phi-2 roberta-bpe trillion",
    _SINGLE_DIGITS: "codeshell command-r exaone mellum2 minerva-7b refact smollm starcoder",
    _LLAMA3: "falcon-h1 falcon3 jina-v5-nano lfm2 llama-bpe llama-v3 llama3 midm-2.0 pixtral",
    WordSplit((_LLAMA3_WORDS,)): "chatglm-bpe dbrx smaug-bpe",
    WordSplit((_LLAMA3_WORDS,), ignore_merges=True): "glm4 glm5",
    _QWEN2: "deepseek-r1-qwen f2llmv2 grok-2 hunyuan kormo megrez qwen2 solar-open stablelm2",
    _QWEN35: "qwen35",
    _GPT4O: "gpt-4o kanana2 llama4 minimax-m2 talkie",
    WordSplit((_GPT4O_WORDS,), ignore_merges=True): "granite-embed-multi-97m",
    _TEKKEN: "tekken",
    WordSplit((rf"\p{{Han}}+|{_KIMI_WORDS}",)): "kimi-k2",
    _DEEPSEEK: "deepseek-llm",
    _DEEPSEEK_CODER: "deepseek-coder",
    _DEEPSEEK_V3: "deepseek-v3 hunyuan-dense hy_v4 joyai-llm",
    WordSplit((_BLOOM_WORDS,)): "bloom gpt3-finnish poro-chat",
    WordSplit((_BLOOM_WORDS, r"\p{N}")): "viking",
    _AFMOE: "afmoe",
    _BAILING: "bailingmoe bailingmoe2 llada-moe",
    _CHAMELEON: "chameleon",
    _DEFAULT: "default",
    _EXAONE_MOE: "exaone-moe",
    _FALCON: "falcon",
    _JAIS2: "jais-2",
    _LAGUNA: "laguna",
    _MINICPM5: "minicpm5",
    _SEED_CODER: "seed-coder",
    _SPARK: "spark2_5",
    _SUPERBPE: "superbpe",
    _TINY_AYA: "cohere2moe tiny_aya",
    _UFAKZEKA: "ufakzeka",
    _YOUTU: "youtu",
    WordSplit((), adds_bos=True, alphabet=Alphabet.METASPACE): "gemma4 granite-embed-multi-311m",
    _METASPACE: "sarvam-moe",
    WordSplit((), alphabet=Alphabet.METASPACE, lines_begin_with_space=True): "mmbert",
    WordSplit((), alphabet=Alphabet.WORDS): "whitespace",
}
WORD_SPLITS: Mapping[str, WordSplit] = {name: split for split, names in _NAMES.items() for name in names.split()}
