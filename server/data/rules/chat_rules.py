"""Judgments of chats, preferences and completions: whether a line must be removed."""

import itertools
import re
import string
import unicodedata
from collections.abc import Sequence

import msgspec

from server.data.lines import DataLine, LineKind, called_functions
from server.data.rules.answer_ends import stops_early
from server.data.words import is_unspaced

_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_HELP = (
    r"(?:help|assist|provide|fulfill?|comply|answer|do (?:that|this)|continue|creat|generat|support|engag|discuss"
    r"|complete|writ)"
)
_REFUSAL = re.compile(
    rf"(?:\bi (?:can(?:no|')t|can not|won't|am (?:not able|unable) to)|\bi'm (?:not able|unable) to"
    rf"|\A\W*(?:sorry\W+(?:but )?)?unable to) {_HELP}"
    r"|\bas an? (?:ai|artificial intelligence|(?:large )?language)[ -]?(?:language )?(?:model|assistant)\b"
    r"(?=[^.!?]{0,40}\b(?:i|my)\b)"
    r"|(?:against|violates?) (?:my|our) (?:programming|guidelines|polic(?:y|ies)\b)"
    r"|als (?:eine? )?(?:ki|künstliche intelligenz|sprachmodell)\b"
    r"|(?:dabei|damit|hierbei) kann ich (?:dir|ihnen|euch)?.{0,20}nicht (?:helfen|weiterhelfen|dienen)"
    r"|(?:dies|diese|das|ihre)\w*(?: \w+)? kann ich (?:leider )?nicht (?:beantworten|erfüllen|bearbeiten)"
    r"|(?:tut mir leid|bedauere).{0,60}nicht (?:helfen|weiterhelfen|beantworten|erfüllen|unterstützen)"
    r"|(?:申し訳|すみません|恐れ入り|ごめん).{0,60}(?:できません|できかねます|致しかね|いたしかね|お答えでき|お手伝いでき|対応でき)"
    r"|(?:ai|人工知能)(?:言語モデル|アシスタント)?(?:として|である|なので|のため)"
    r"|(?:désolé|lo siento).{0,60}(?:ne peux pas|no puedo)",
    re.DOTALL,
)
# A start without any of these matches nothing of the expression, which is slow.
_REFUSAL_HINTS = (
    *("can", "won't", "able to", "model", "assist", "gramming", "guideline", "polic", "nicht", "ki", "intelligenz"),
    *("申し訳", "すみません", "恐れ入り", "ごめん", "ai", "人工知能", "désolé", "lo siento"),
)
_ANSWERED = ("user", "assistant")
_REFUSAL_START = 200  # characters of an answer that are searched
# UTF-8 that was read as Latin-1 or Windows-1252, and the sign of a character that was lost.
_MOJIBAKE = re.compile(
    "\ufffd|[ÃÂ][\u0080-\u00bf]|Ã[ŒŸœž„…]|â€[\u0080-\u00bfœ™˜“”¦¢]|â\u0080[\u0080-\u00bf]|ï»¿"
    "|[ãåæçèé](?![‘’“”–—…]{2})[\u0080-\u009f‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ¡-¿][\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
)
_SIGNS = string.punctuation + string.whitespace + "“”„‘’«»…–—。、！？「」『』¿¡"
_LEAST_LOOP, _LEAST_SHORT_LOOP = 24, 12  # words
_MOST_REPEATED, _MOST_REPEATED_SHORT = 0.35, 0.45
_MOST_REPEATED_CODE = 0.6


def is_empty(line: DataLine) -> bool:
    """Whether a question or an answer has neither a sign nor a tool call."""
    messages = [*line.messages, *(line.outputs if line.kind is LineKind.PREFERENCE else [])]
    if not messages:
        return not all(turn.text.strip() for turn in line.turns)
    return not all(
        called_functions(message) or _has_content(message.get("content"))
        for message in messages
        if message["role"] in ("user", "assistant")
    )


def _has_content(content: object) -> bool:
    if isinstance(content, list):
        return any(part.get("type") != "text" or str(part.get("text") or "").strip() for part in content)
    return isinstance(content, str) and bool(content.strip())


def has_wrong_roles(line: DataLine) -> bool:
    """Whether a system message is not the first, or the roles of user, assistant and tool do not take turns."""
    roles = [message["role"] for message in line.messages]
    if line.kind is LineKind.PREFERENCE:
        roles.append("assistant")
    while roles and roles[0] in ("system", "developer"):
        roles = roles[1:]
    if line.kind is LineKind.COMPLETION:
        return False
    pairs = list(itertools.pairwise(roles))
    return (
        not roles
        or roles[0] != "user"
        or not _ROLES.issuperset(roles)
        or any(role in ("system", "developer") for role in roles)
        or any(one == other and one in ("user", "assistant") for one, other in pairs)
        or any(other in ("tool", "function") and one == "user" for one, other in pairs)
    )


def has_wrong_calls(line: DataLine) -> bool:
    """Whether a call has no name or no JSON object of arguments, names no given tool, or a result answers no call."""
    tools = [each.get("function", each) for each in line.value.get("tools") or [] if isinstance(each, dict)]
    tools += [each for each in line.value.get("functions") or [] if isinstance(each, dict)]
    names = {name for each in tools if isinstance(each, dict) and isinstance(name := each.get("name"), str)}
    called: set[str | None] = set()
    for message in [*line.messages, *(line.outputs if line.kind is LineKind.PREFERENCE else [])]:
        for function in called_functions(message):
            name = function.get("name")
            if not isinstance(name, str) or (names and name not in names) or not _is_object(function.get("arguments")):
                return True
        ids = (each.get("id") for each in message.get("tool_calls") or [] if isinstance(each, dict))
        called |= {call_id for call_id in ids if isinstance(call_id, str | None)}
        if message["role"] == "tool":
            answered = message.get("tool_call_id")
            if not isinstance(answered, str | None) or answered not in called:
                return True
    return False


def _is_object(arguments: object) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict) if isinstance(arguments, str) else False
    except (msgspec.DecodeError, RecursionError):
        return False


def is_refusal(line: DataLine) -> bool:
    """Whether an answer refuses in its first sentences; of a preference, the preferred one."""
    starts = [answer[:_REFUSAL_START].lower().replace("’", "'") for answer in _judged(line)]
    return any(any(hint in start for hint in _REFUSAL_HINTS) and _REFUSAL.search(start) for start in starts)


def _judged(line: DataLine) -> list[str]:
    """Return the answers that have to be good. The other one of a preference shows what to avoid."""
    return line.answers[:1] if line.kind is LineKind.PREFERENCE else line.answers


def is_cut_off(line: DataLine) -> bool:
    """Whether the last answer stops within a sentence or a block of code; of a preference, the preferred one."""
    is_call = bool(line.messages) and bool(called_functions(line.messages[-1]))  # a text before a call may end openly
    return bool(line.answers) and not is_call and stops_early(_judged(line)[-1])


def is_repetition(line: DataLine) -> bool:
    """Whether much of an answer repeats n-grams of eight words, or of four if it is short: a model in a loop. Of a
    preference, the preferred answer."""
    return any(_is_loop(answer, words) for answer, words in zip(_judged(line), line.answer_words, strict=False))


def _is_loop(answer: str, words: Sequence[str]) -> bool:
    factor = 2 if is_unspaced(words) else 1
    if len(words) >= _LEAST_LOOP * factor:
        most = _MOST_REPEATED_CODE if "```" in answer else _MOST_REPEATED
        return repeated_share(words, 8 * factor) > most
    is_prose = "```" not in answer and 2 * sum(map(str.isalpha, words)) > len(words)
    return (
        is_prose
        and len(words) >= _LEAST_SHORT_LOOP * factor
        and repeated_share(words, 4 * factor) > _MOST_REPEATED_SHORT
    )


def repeated_share(words: Sequence[str], width: int) -> float:
    """Return the share of the characters that lie in n-grams which occurred before."""
    grams = list(zip(*(words[place:] for place in range(width)), strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated, covered = 0, 0
    for start, gram in enumerate(grams):
        if gram in seen:
            repeated += sum(map(len, words[max(start, covered) : start + width]))
            covered = start + width
        seen.add(gram)
    return repeated / max(1, sum(map(len, words)))


def is_echo(line: DataLine) -> bool:
    """Whether an answer is the user's message before it, except for width, blanks and signs at both ends. One that only
    corrects case or signs within is an answer. Of a preference, the preferred one is compared."""
    turns = line.turns
    if line.kind is LineKind.PREFERENCE:
        pairs = [(turns[-1].text, answer) for answer in _judged(line)]
    else:
        follows = itertools.pairwise(turns)
        pairs = [(turn.text, answer.text) for turn, answer in follows if (turn.role, answer.role) == _ANSWERED]
    return any(
        3 * len(one) < 4 * len(other) < 6 * len(one) and _bare(one) == _bare(other) != "" for one, other in pairs
    )


def _bare(text: str) -> str:
    words = unicodedata.normalize("NFKC", text).split()
    return " ".join(words).strip(_SIGNS)


def is_mojibake(line: DataLine) -> bool:
    """Whether the line has letters of a wrong encoding."""
    return any(not segment.isascii() and _MOJIBAKE.search(segment) for segment in line.segments)
