"""Personal data: what is masked, and which like texts are not."""

import json
from collections import Counter

import pytest

from server.data.personal_data import mask_text, mask_value

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to ann.smith+x@mail.example.co.uk.", "Write to [MAIL]."),
        ("Call +49 30 1234 5678 or (030) 1234-5678.", "Call [PHONE] or [PHONE]."),
        ("Ruf 030/12345678 an, or 212-555-0147", "Ruf [PHONE] an, or [PHONE]"),
        ("電話は 03-1234-5678 です", "電話は [PHONE] です"),
        ("電話番号は090-1234-5678です。０９０－１２３４－５６７８も", "電話番号は[PHONE]です。[PHONE]も"),
        ("お問い合わせはtaro@example.comまで、鍵はAKIAIOSFODNN7EXAMPLEです", "お問い合わせは[MAIL]まで、鍵は[KEY]です"),
        ("번호는 010-1234-5678입니다, kim@example.com으로", "번호는 [PHONE]입니다, [MAIL]으로"),
        ("卡号4111 1111 1111 1111吗，DE89370400440532013000吗", "卡号[CARD]吗，[IBAN]吗"),
        ("pay to DE89 3704 0044 0532 0130 00 today", "pay to [IBAN] today"),
        ("or GB82WEST12345698765432", "or [IBAN]"),
        ("DE89 3704 0044 0532 0130 00 ALSO 12", "[IBAN] ALSO 12"),
        ("de89370400440532013000, gb82 west 1234 5698 7654 32 also", "[IBAN], [IBAN] also"),
        ("DE89-3704-0044-0532-0130-00, nl91-abna-0417-1643-00", "[IBAN], [IBAN]"),
        ("wrong: DE89 3704 0044 0532 0130 01 and de89 3704 0044 0532 0130 01 too", "wrong: [IBAN] and [IBAN] too"),
        ("ab12 call 0301 2345 6789 or de42 have 0301 2345 678", "ab12 call [PHONE] or de42 have [PHONE]"),
        ("card 4111 1111 1111 1111, 378282246310005", "card [CARD], [CARD]"),
        ("key sk-proj-abcdefghijklmnopqrstuvwx", "key [KEY]"),
        ("AKIAIOSFODNN7EXAMPLE and ghp_" + "a1" * 18, "[KEY] and [KEY]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----.", "[KEY]."),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mask_text(text, Counter()) == masked


@pytest.mark.parametrize(
    "text",
    [
        "In 2024 there were 1,234,567 of 10.000.000 people on 2024-12-01 at 12:30.",
        "4111 1111 1111 1112 has a wrong check digit, DE89370400440532013001 too",
        "version 1.2.3-4, pages 100-200, 3.14159265358979, 192.168.0.1, 0.5",
        "x@y and @ann, a sk-id, 978-3-16-148410-0",
        "INT8 AB12 matrices 1000 2000 3000",
        "de89370400440532013001, DE89-3704-0044-0532-0130-01, de89cafe-1234-5678-9abc-def012345678",
        "be71 said that they will come here soon",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert mask_text(text, Counter()) == text


def test_all_strings_of_a_line_are_masked_and_counted() -> None:
    counts: Counter[str] = Counter()
    value = {"a@b.de": ["a@b.de", {"x": "c@d.de"}, 1]}
    assert mask_value(value, counts) == {"a@b.de": ["[MAIL]", {"x": "[MAIL]"}, 1]}
    assert counts == {"mail": 2}


def test_arguments_of_a_call_stay_json() -> None:
    arguments = '{"text": "line\\nann@b.de", "card": 4111111111111111, "n": 1}'
    value = {"arguments": arguments, "other": '{"n":  1}', "card": 4111111111111111}

    masked = mask_value(value, Counter())

    assert json.loads(masked.pop("arguments")) == {"text": "line\n[MAIL]", "card": "[CARD]", "n": 1}
    assert masked == {"other": '{"n":  1}', "card": "[CARD]"}
