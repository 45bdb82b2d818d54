"""Masks of personal data: mail addresses, phone, card and account numbers, and keys of APIs."""

import json
import re
from collections import Counter
from typing import Any

import msgspec

from server.data.words import UNSPACED

# Letters, digits and underscores, except in scripts that need no blank between a word and a number or an address: those
# without blanks, and Korean, whose particles follow a word.
_LETTER = rf"[^\W{UNSPACED}\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"
_MAIL = re.compile(
    rf"(?<!{_LETTER})(?<![.+-])(?:{_LETTER}|[.+-])++@(?:{_LETTER}|-)+(?:\.(?:{_LETTER}|-)+)*"
    rf"\.(?:(?![\d_]){_LETTER}){{2,}}(?!{_LETTER})"
)
_IBAN = re.compile(rf"(?<!{_LETTER})[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,4}})?(?![A-Za-z0-9])")
# Account numbers in lower case or with hyphens: words look like them too, so their country and length count.
_LOOSE_IBAN = re.compile(
    rf"(?<!{_LETTER})[A-Za-z]{{2}}\d{{2}}([ -]?)[A-Za-z0-9]{{4}}(?:\1[A-Za-z0-9]{{4}}){{1,6}}(?:\1[A-Za-z0-9]{{1,4}})?"
    r"(?![A-Za-z0-9])"
)
_IBAN_LENGTHS = {  # ISO 13616's registry
    code: length
    for length, codes in (
        (15, "NO"), (16, "BE"), (18, "DK FI FK FO GL NL SD"), (19, "MK SI"), (20, "AT BA EE KZ LT LU MN XK"),
        (21, "CH HR LI LV"), (22, "BG BH CR DE GB GE IE ME RS VA"), (23, "AE GI IL IQ OM SO TL"),
        (24, "AD CZ ES MD PK RO SA SE SK TN VG"), (25, "LY PT ST"), (26, "IS TR"), (27, "BI DJ FR GR IT MC MR SM"),
        (28, "AL AZ BY CY DO GT HN HU LB NI PL SV"), (29, "BR EG PS QA UA"), (30, "JO KW MU YE"), (31, "MT SC"),
        (32, "LC"), (33, "RU"),
    )
    for code in codes.split()
}  # fmt: skip
_CARD = re.compile(rf"(?<!{_LETTER})(?<![.,-])\d(?:[ -]?\d){{12,18}}(?!{_LETTER}|-|[.,]\d)")
# With a country's code, or a national number with a trunk's 0 or an area in brackets, and divided by signs.
_PHONE = re.compile(
    rf"(?<!{_LETTER})(?<![.+/-])"
    r"(?:\+\d{1,3}[ ./-]?(?:\(\d{1,4}\)[ ./-]?)?\d(?:[ ./-]?\d){5,12}"
    r"|\(\d{2,5}\)[ ./-]?\d{2,4}(?:[ ./-]\d{2,5}){1,3}"
    r"|0\d{1,4}(?:[ /-]\d{2,8}){1,4}"
    rf"|[2-9]\d{{2}}[.-]\d{{3}}[.-]\d{{4}})(?!{_LETTER}|-|[.,]\d)"
)
# A key of any length ends where its characters do: a demand for what follows would take quadratic time.
_KEY = re.compile(
    rf"(?<!{_LETTER})(?:sk-[A-Za-z0-9_-]{{20,}}|(?:AKIA|ASIA)[A-Z0-9]{{16}}(?!{_LETTER}|-)|gh[pousr]_[A-Za-z0-9]{{36,}}"
    rf"|github_pat_[A-Za-z0-9_]{{30,}}|glpat-[A-Za-z0-9_-]{{20,}}|hf_[A-Za-z0-9]{{30,}}"
    rf"|AIza[A-Za-z0-9_-]{{35}}(?!{_LETTER}|-)|xox[abprs]-[A-Za-z0-9-]{{10,}}"
    rf"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{{16,}}"
    r"|(?<!-)eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# Wide forms, and hyphens and blanks that look the same, each as one character of ASCII.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_NARROW |= dict.fromkeys((0x2010, 0x2011, 0x2212), ord("-")) | dict.fromkeys((0xA0, 0x202F, 0x3000), ord(" "))
_ISSUERS = re.compile(r"(?:4\d{12}(?:\d{3})?|(?:5[1-5]|2[2-7]|35|6\d)\d{14}|3[47]\d{13}|3[068]\d{12}|6\d{16,18})$")
_LEAST_PHONE, _MOST_PHONE = 8, 15  # digits


def is_card(text: str) -> bool:
    """Whether the digits have the start and length of a card number, and its check digit (Luhn)."""
    digits = [int(each) for each in text if each.isdigit()]
    if not _ISSUERS.match("".join(map(str, digits))):
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether an account number has the right check digits (ISO 13616: modulo 97)."""
    code = text.replace(" ", "").replace("-", "")
    return 15 <= len(code) <= 34 and int("".join(str(int(each, 36)) for each in code[4:] + code[:4])) % 97 == 1


def _iban_length(text: str) -> int:
    """Return the length of the account number that the text begins with: words after it may look like its end."""
    lengths = [len(text), *(match.start() for match in reversed([*re.finditer(" ", text)]))]
    return next((length for length in lengths if is_iban(text[:length])), 0)


def _loose_iban_length(text: str) -> int:
    """Return the length of the account number that the text begins with: one in lower case or with hyphens, or one with
    wrong check digits, if a part of it would be masked as a phone number."""
    length = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    ends = [place for place, sign in enumerate(text, 1) if sign.isalnum()]
    if not length or len(ends) < length or text[ends[length - 1] :][:1].isalnum():
        return 0
    code = text[: ends[length - 1]]
    return len(code) if is_iban(code) or _PHONE.search(code) else 0


def _phone_length(text: str) -> int:
    return len(text) if _LEAST_PHONE <= sum(map(str.isdigit, text)) <= _MOST_PHONE else 0


def _card_length(text: str) -> int:
    return len(text) if is_card(text) else 0


_DIGITS = re.compile("[0-9]")
_KEY_HINTS = ("sk-", "AKIA", "ASIA", "gh", "glpat-", "hf_", "AIza", "xox", "_live_", "_test_", "eyJ", "PRIVATE KEY")
# Kind, whether a text can have it (None: if it has digits), expression, length of what is right in a match. In this
# order: an account number has parts that look like phone numbers.
_KINDS = (
    ("key", lambda text: any(hint in text for hint in _KEY_HINTS), _KEY, len),
    ("mail", lambda text: "@" in text, _MAIL, len),
    ("iban", None, _IBAN, _iban_length),
    ("iban", None, _LOOSE_IBAN, _loose_iban_length),
    ("card", None, _CARD, _card_length),
    ("phone", None, _PHONE, _phone_length),
)


def mask_text(text: str, counts: Counter[str]) -> str:
    """Replace personal data by [MAIL], [PHONE], [IBAN], [CARD] and [KEY], and count them by kind."""
    narrow = _narrowed(text)
    has_digits = _DIGITS.search(narrow) is not None
    for kind, is_possible, pattern, right_length in _KINDS:
        if not (has_digits if is_possible is None else is_possible(narrow)):
            continue
        parts, end = [], 0
        for match in pattern.finditer(narrow):
            if length := right_length(match[0]):
                parts += [text[end : match.start()], f"[{kind.upper()}]"]
                end = match.start() + length
                counts[kind] += 1
        if parts:
            text = "".join([*parts, text[end:]])
            narrow = _narrowed(text)
    return text


def _narrowed(text: str) -> str:
    return text if text.isascii() else text.translate(_NARROW)


def mask_value(value: Any, counts: Counter[str]) -> Any:
    """Return a JSON value with personal data masked in all of its strings and numbers, except the names of fields. The
    arguments of a call stay valid JSON. A number with personal data becomes a string."""
    if isinstance(value, str):
        return mask_text(value, counts)
    if isinstance(value, int) and not isinstance(value, bool):
        masked = mask_text(str(value), counts)
        return value if masked == str(value) else masked
    if isinstance(value, list):
        return [mask_value(each, counts) for each in value]
    if isinstance(value, dict):
        return {
            name: _mask_arguments(each, counts)
            if name == "arguments" and isinstance(each, str)
            else mask_value(each, counts)
            for name, each in value.items()
        }
    return value


def _mask_arguments(text: str, counts: Counter[str]) -> str:
    try:
        arguments = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return mask_text(text, counts)
    masked = mask_value(arguments, counts)
    return text if masked == arguments else json.dumps(masked, ensure_ascii=False)
