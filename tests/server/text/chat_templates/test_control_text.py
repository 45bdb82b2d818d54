"""ControlTexts: where a text spells control tokens, however long it is."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.chat_templates import control_text
from server.text.chat_templates.control_text import ControlTexts

pytestmark = pytest.mark.fast

TEXTS = frozenset({"<s>", "<s><s>", "</s>", "<|im_end|>"})


@given(text=st.lists(st.sampled_from([*sorted(TEXTS), "<", "s", ">", "|", " ", "im_end"]), max_size=30).map("".join))
def test_windows_find_what_one_search_finds(text: str) -> None:
    pattern = "|".join(map(re.escape, sorted(TEXTS, key=len, reverse=True)))
    whole = [match.span() for match in re.finditer(pattern, text)]
    for window in (1, 3, 10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(control_text, "_WINDOW", window)
            assert ControlTexts(TEXTS)._whole_spans(text) == whole
