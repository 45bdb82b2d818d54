"""RULES: all quality rules in one table, each with its bounds and its source. Also the measures of plain texts."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from engine.errors import InvalidRequest
from server.data.lines import DataLine, LineKind
from server.data.rules import chat_rules
from server.data.words import is_unspaced

_BULLETS = ("-", "*", "•", "‣", "▪", "●", "○", "–", "・")
_ENDS = tuple(".!?\"'”’:;。！？」』)）…।॥۔؟။។།።")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$|[\"'”’)])|[。！？।॥۔؟။។།።]")
_CODE_LINE = re.compile(
    r"^\s{4,}\S|^\t|[{};]\s*$|^\s*(?:def|class|import|from|return|if|for|#include|func|fn|let|var)\b.*[:(){;]"
)
_BOILERPLATE = re.compile(
    r"(?i)javascript|privacy policy|cookie policy|terms of use|uses? (?:of )?cookies"
    r"|datenschutzerklärung|verwendet cookies|プライバシーポリシー|利用規約"
)
# Gopher's eight English words, and the most frequent ones of German, French, Spanish, Italian, Portuguese and Dutch.
_MOST_FREQUENT = (
    "the be to of and that have with der die das und ist nicht mit von zu den ein eine le la les et des un une est que "
    "el los las y en por con il di che e per non o os as um uma não com para het een van niet voor op"
)
_STOP_WORDS = frozenset(_MOST_FREQUENT.split())


class MeasuredText:
    """A plain text with its measures, each computed once."""

    def __init__(self, line: DataLine) -> None:
        self.text = line.value["text"]
        self.words = line.words
        self.is_unspaced = is_unspaced(self.words)
        # Thai and Lao have no sign for the end of a sentence.
        self.has_ends = 2 * sum("\u0e00" <= word[:1] <= "\u0eff" for word in self.words) <= len(self.words)

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def is_code(self) -> bool:
        """Whether half of the lines look like a program's, so that rules for prose say nothing of the text."""
        lines = [line for line in self.text.split("\n") if line.strip()]
        return len(lines) > 1 and 2 * sum(bool(_CODE_LINE.search(line)) for line in lines) >= len(lines)

    @cached_property
    def raw_words(self) -> list[str]:
        return self.words if self.is_unspaced else self.text.split()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the table. measure: returns None for a line that the rule does not judge. A line is removed whose
    measure is below `least` or above `most`."""

    name: str
    group: str
    measure: Callable[[DataLine, dict[str, MeasuredText]], float | None]
    least: float
    most: float
    meaning: str
    source: str

    @property
    def bounds(self) -> str:
        least = "" if self.least == float("-inf") else f"at least {self.least:g}"
        most = "" if self.most == float("inf") else f"at most {self.most:g}"
        return ", ".join(each for each in (least, most) if each)


def _num_words(text: MeasuredText) -> float:
    # A character of an unspaced script counts as half a word.
    return len(text.words) / (2 if text.is_unspaced else 1)


def _word_length(text: MeasuredText) -> float | None:
    words = text.raw_words
    return None if text.is_unspaced or not words else sum(map(len, words)) / len(words)


def _symbols(text: MeasuredText) -> float:
    return (text.text.count("#") + text.text.count("...") + text.text.count("…")) / max(1, len(text.raw_words))


def _bullets(text: MeasuredText) -> float:
    return _share(line.startswith(_BULLETS) for line in text.lines)


def _ellipses(text: MeasuredText) -> float:
    return _share(line.endswith(("...", "…")) for line in text.lines)


def _alphabetic(text: MeasuredText) -> float:
    return _share(any(map(str.isalpha, word)) for word in text.raw_words)


def _stop_words(text: MeasuredText) -> float | None:
    is_latin = _share(letter < "\u0250" for letter in text.text if letter.isalpha()) > 0.5
    return len(_STOP_WORDS.intersection(text.words)) if is_latin else None


def _repeated_lines(text: MeasuredText) -> float:
    return 1 - len(set(text.lines)) / max(1, len(text.lines))


def _repeated_characters(text: MeasuredText) -> float:
    counts = Counter(text.lines)
    repeated = sum(len(line) * (count - 1) for line, count in counts.items())
    return repeated / max(1, sum(map(len, text.lines)))


def _top_gram(size: int) -> Callable[[MeasuredText], float]:
    def measure(text: MeasuredText) -> float:
        width = 2 * size if text.is_unspaced else size
        grams = Counter(zip(*(text.words[start:] for start in range(width)), strict=False))
        if not grams:
            return 0.0
        gram, count = grams.most_common(1)[0]
        return 0.0 if count == 1 else count * sum(map(len, gram)) / max(1, sum(map(len, text.words)))

    return measure


def _repeated_grams(size: int) -> Callable[[MeasuredText], float]:
    def measure(text: MeasuredText) -> float:
        return chat_rules.repeated_share(text.words, 2 * size if text.is_unspaced else size)

    return measure


def _sentences(text: MeasuredText) -> float | None:
    return None if not text.has_ends else len(_SENTENCE_END.findall(text.text))


def _ended_lines(text: MeasuredText) -> float | None:
    return None if not text.has_ends else _share(line.endswith(_ENDS) for line in text.lines)


def _short_lines(text: MeasuredText) -> float | None:
    least = 15 if text.is_unspaced else 30
    return None if len(text.lines) < 2 else _share(len(line) <= least for line in text.lines)


def _boilerplate(text: MeasuredText) -> float:
    return _share(bool(_BOILERPLATE.search(line)) for line in text.lines)


def _share(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return sum(listed) / max(1, len(listed))


def _of_text(
    measure: Callable[[MeasuredText], float | None], *, judges_code: bool = False
) -> Callable[..., float | None]:
    """Apply a measure to plain texts. judges_code: also to programs."""

    def measured(line: DataLine, cache: dict[str, MeasuredText]) -> float | None:
        if line.kind is not LineKind.TEXT:
            return None
        text = cache.setdefault("text", MeasuredText(line)) if "text" not in cache else cache["text"]
        return None if text.is_code and not judges_code else measure(text)

    return measured


def _of_chat(judge: Callable[[DataLine], bool]) -> Callable[..., float | None]:
    """Apply a judgment to all lines but plain texts: 1 for a line to remove."""

    def measured(line: DataLine, _: dict[str, MeasuredText]) -> float | None:
        return None if line.kind is LineKind.TEXT else float(judge(line))

    return measured


_INF = float("inf")
_GOPHER, _C4, _FINEWEB = "Rae et al. 2021, table A1", "Raffel et al. 2020, 2.2", "Penedo et al. 2024, 3.6"
_OWN = "headrace"
RULES: tuple[Rule, ...] = (
    Rule("gopher_words", "gopher", _of_text(_num_words), 50, 100_000, "words", _GOPHER),
    Rule("gopher_word_length", "gopher", _of_text(_word_length), 3, 10, "mean length of a word", _GOPHER),
    Rule("gopher_symbols", "gopher", _of_text(_symbols), -_INF, 0.1, "# and ellipses per word", _GOPHER),
    Rule("gopher_bullets", "gopher", _of_text(_bullets), -_INF, 0.9, "share of lines with a bullet", _GOPHER),
    Rule("gopher_ellipses", "gopher", _of_text(_ellipses), -_INF, 0.3, "share of lines ending in an ellipsis", _GOPHER),
    Rule("gopher_letters", "gopher", _of_text(_alphabetic), 0.8, _INF, "share of words with a letter", _GOPHER),
    Rule(
        "gopher_stop_words", "gopher", _of_text(_stop_words), 2, _INF, "different stop words (seven languages)", _GOPHER
    ),
    Rule("gopher_lines", "gopher", _of_text(_repeated_lines), -_INF, 0.3, "share of repeated lines", _GOPHER),
    Rule(
        "gopher_line_characters",
        "gopher",
        _of_text(_repeated_characters),
        -_INF,
        0.2,
        "the same, in characters",
        _GOPHER,
    ),
    Rule("gopher_top_2gram", "gopher", _of_text(_top_gram(2)), -_INF, 0.2, "share of the commonest 2-gram", _GOPHER),
    Rule("gopher_top_3gram", "gopher", _of_text(_top_gram(3)), -_INF, 0.18, "share of the commonest 3-gram", _GOPHER),
    Rule("gopher_top_4gram", "gopher", _of_text(_top_gram(4)), -_INF, 0.16, "share of the commonest 4-gram", _GOPHER),
    Rule("gopher_5grams", "gopher", _of_text(_repeated_grams(5)), -_INF, 0.15, "share in repeated 5-grams", _GOPHER),
    Rule("gopher_10grams", "gopher", _of_text(_repeated_grams(10)), -_INF, 0.1, "share in repeated 10-grams", _GOPHER),
    Rule("c4_sentences", "c4", _of_text(_sentences), 3, _INF, "sentences", _C4),
    Rule(
        "c4_braces",
        "c4",
        _of_text(lambda text: text.text.count("{"), judges_code=True),
        -_INF,
        0,
        "curly brackets",
        _C4,
    ),
    Rule("c4_lorem", "c4", _of_text(lambda text: text.text.lower().count("lorem ipsum")), -_INF, 0, "lorem ipsum", _C4),
    Rule(
        "c4_boilerplate", "c4", _of_text(_boilerplate), -_INF, 0.3, "share of lines on JavaScript, cookies, terms", _C4
    ),
    Rule("fineweb_ends", "fineweb", _of_text(_ended_lines), 0.12, _INF, "share of lines with an end", _FINEWEB),
    Rule(
        "fineweb_short_lines",
        "fineweb",
        _of_text(_short_lines),
        -_INF,
        0.67,
        "share of lines of 30 characters",
        _FINEWEB,
    ),
    Rule(
        "fineweb_repeated",
        "fineweb",
        _of_text(_repeated_characters),
        -_INF,
        0.1,
        "characters in repeated lines",
        _FINEWEB,
    ),
    Rule("chat_empty", "chat", _of_chat(chat_rules.is_empty), -_INF, 0, "an empty question or answer", _OWN),
    Rule("chat_roles", "chat", _of_chat(chat_rules.has_wrong_roles), -_INF, 0, "roles out of order", _OWN),
    Rule(
        "chat_tool_calls", "chat", _of_chat(chat_rules.has_wrong_calls), -_INF, 0, "tool calls that do not parse", _OWN
    ),
    Rule("chat_refusal", "chat", _of_chat(chat_rules.is_refusal), -_INF, 0, "an answer that refuses", _OWN),
    Rule("chat_cut_off", "chat", _of_chat(chat_rules.is_cut_off), -_INF, 0, "an answer without an end", _OWN),
    Rule(
        "chat_repetition",
        "chat",
        _of_chat(chat_rules.is_repetition),
        -_INF,
        0,
        "an answer in a loop",
        f"{_OWN}, n-grams as in {_GOPHER}",
    ),
    Rule("chat_echo", "chat", _of_chat(chat_rules.is_echo), -_INF, 0, "an answer that is its question", _OWN),
    Rule("chat_mojibake", "chat", _of_chat(chat_rules.is_mojibake), -_INF, 0, "letters of a wrong encoding", _OWN),
)
GROUPS = tuple(dict.fromkeys(rule.group for rule in RULES))


def select_rules(names: Sequence[str], param: str) -> list[Rule]:
    """Return the rules of the groups and names, in the table's order. Raises InvalidRequest for an unknown name."""
    known = {*GROUPS, *(rule.name for rule in RULES)}
    for name in names:
        if name not in known:
            raise InvalidRequest.of(
                param,
                f"has {name!r}, which is not a rule; there are the groups {', '.join(GROUPS)}, and the rules "
                f"{', '.join(rule.name for rule in RULES)}",
            )
    return [rule for rule in RULES if rule.group in names or rule.name in names]


def failed_rule(rules: Sequence[Rule], line: DataLine, judged: Counter[str]) -> tuple[Rule, float] | None:
    """Return the first rule that the line fails, with its measure; count the rules that judged the line."""
    cache: dict[str, MeasuredText] = {}
    for rule in rules:
        measure = rule.measure(line, cache)
        if measure is None:
            continue
        judged[rule.name] += 1
        if not rule.least <= measure <= rule.most:
            return rule, measure
    return None
