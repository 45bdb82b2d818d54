"""A Unigram vocabulary as llama.cpp's converter writes that of XLM-RoBERTa, and the table of characters it replaces."""

import base64
import zlib
from typing import Any

# SentencePiece's own table for: ﬁ -> fi, Ａ -> A, e and an acute accent -> é, ½ -> 1/2, three kinds of whitespace -> a
# space, and a space without width -> nothing.
CHARSMAP = zlib.decompress(
    base64.b64decode(
        "eNot0wWsV1UAB+DzHjgHww2RHqNDOiWkG+kQkAZpHIh0++hHSUh3SUl3gzSMlhSDHDG6QUC/P3q37/7O9jtnu3fnnBA3hJA2hHjxQoj/"
        "QQhRIcQcDdFh4EchJDCe+7FXxugQR4zSe2KW/99bEjOvfwgfyoSKT0hEEhKTjKSkIDk7qoWQUm4/FB1SyTSkJt1/nxAykJ5MZCQLmcnK"
        "p2QnGznJQW5ykZc85Ccfn1GAQhSkCIUpyucUpxglKUFpSlGWMpSnHBWpwBdUogqV8RuhKjWoTi1qUofa1OVL6lOPBnxFIxrShMY0oykt"
        "aE5LvqY1rWhLG9rTjm/oQMfInInR4VvZie/oTFe60J1u9KQHvelFX/pgy0I/vmcAAyObymAGMZQhDGcYI4hlFCMZw2jG8gPjGcePTGAS"
        "E5nCZKYxlRlMZxYzmcNs5jGXBcznJxaymEUsZQk/s4wVLGcVK1nDataxlg2sZxMb2cJmtrE1cg4jZ5Bd7OQXdrOXPexnHwc5wGEORbr1"
        "UeGIPMZRTnCcU5zkV05zljOc5xwXucAlfuMPfucv/uQKl7nGVW5wnZs8SBUVbstbkS42KtyR97gb6bjPIx7yhMc84ykveM4rXvI3r3nL"
        "G/7hXXh/+fLmzucatGkf9i4N/wIWzo9h"
    )
)
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
# "bc" and "c" are there, "q" and "z" only within longer pieces: what an unknown character costs decides some texts.
PIECES = {
    **{"▁": -3.0, ",": -4.0, ".": -3.5, "▁the": -3.9, "▁boat": -7.1, "▁float": -7.3, "s": -3.2, "▁a": -4.1, "at": -5.0},
    **{"▁fi": -6.0, "ne": -5.1, "fi": -6.5, "é": -7.0, "1": -6.1, "/": -9.0, "2": -6.2, "A": -8.0, "中": -9.5},
    **{letter: -6.0 - number / 10 for number, letter in enumerate("abcdefghijklmnoprtuvwxy")},
    **{"bc": -6.2, "az": -13.0, "zq": -13.5, "ab": -7.4, "bq": -13.9, "▁▁": -2.0},
}
TOKENS = [*SPECIAL, *PIECES, "<mask>"]


def unigram_metadata(**changes: Any) -> dict[str, Any]:
    """As from the SentencePiece model, which lacks <mask>: the place of the last token is filled."""
    fields = {
        "model": "t5",
        "pre": "default",
        "tokens": [*TOKENS[:-1], "[PAD1]"],
        "scores": [0.0] * 4 + list(PIECES.values()) + [-10000.0],
        "token_type": [3, 3, 3, 2] + [1] * len(PIECES) + [5],
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "precompiled_charsmap": list(CHARSMAP),
        "bos_token_id": 0,
        "eos_token_id": 2,
        "unknown_token_id": 3,
        "seperator_token_id": 2,
        "padding_token_id": 1,
        "cls_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items() if value is not None}
