"""Masks of personal data: mail addresses, phone, card and account numbers, and keys of APIs."""

import re
from collections import Counter
from typing import Any

_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
# With a country's code, or a national number with a trunk's 0 or an area in brackets, and divided by signs.
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:\+\d{1,3}[ ./-]?(?:\(\d{1,4}\)[ ./-]?)?\d(?:[ ./-]?\d){5,12}"
    r"|\(\d{2,5}\)[ ./-]?\d{2,4}(?:[ ./-]\d{2,5}){1,3}"
    r"|0\d{1,4}(?:[ /-]\d{2,8}){1,4}"
    r"|[2-9]\d{2}[.-]\d{3}[.-]\d{4})(?![\w-]|[.,]\d)"
)
_KEY = re.compile(
    r"\b(?:sk-(?:[A-Za-z]+-)*[A-Za-z0-9_-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35}|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})(?![\w-])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
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
    code = text.replace(" ", "")
    return 15 <= len(code) <= 34 and int("".join(str(int(each, 36)) for each in code[4:] + code[:4])) % 97 == 1


def _iban_length(text: str) -> int:
    """Return the length of the account number that the text begins with: words after it may look like its end."""
    lengths = [len(text), *(match.start() for match in reversed([*re.finditer(" ", text)]))]
    return next((length for length in lengths if is_iban(text[:length])), 0)


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
    ("card", None, _CARD, _card_length),
    ("phone", None, _PHONE, _phone_length),
)


def mask_text(text: str, counts: Counter[str]) -> str:
    """Replace personal data by [MAIL], [PHONE], [IBAN], [CARD] and [KEY], and count them by kind."""
    has_digits = _DIGITS.search(text) is not None
    for kind, is_possible, pattern, right_length in _KINDS:
        if not (has_digits if is_possible is None else is_possible(text)):
            continue

        def masked(match: re.Match[str], kind: str = kind, right_length: Any = right_length) -> str:
            if not (length := right_length(match[0])):
                return match[0]
            counts[kind] += 1
            return f"[{kind.upper()}]{match[0][length:]}"

        text = pattern.sub(masked, text)
    return text


def mask_value(value: Any, counts: Counter[str]) -> Any:
    """Return a JSON value with personal data masked in all of its strings, except the names of fields."""
    if isinstance(value, str):
        return mask_text(value, counts)
    if isinstance(value, list):
        return [mask_value(each, counts) for each in value]
    if isinstance(value, dict):
        return {name: mask_value(each, counts) for name, each in value.items()}
    return value
