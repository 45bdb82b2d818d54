"""Llama Guard 2, 3 and 4: one prompt about a text, answered with safe, or with unsafe and a line of codes.

The prompt lists the categories by code and name. The codes differ between versions, so they are read from the prompt.
An answer with several codes is scored up to its second code.
"""

import itertools
import re
from collections.abc import Mapping

from server.moderations.categories import Category
from server.moderations.guards.guard import GuardLabel, GuardQuestion
from server.text.chat_templates.chat_template import ChatTemplate

_BEGIN, _END = "<BEGIN UNSAFE CONTENT CATEGORIES>", "<END UNSAFE CONTENT CATEGORIES>"
_CATEGORY = re.compile(r"^(S\d+): (.+?)\.?\s*$", re.MULTILINE)
_LEADS = ("", "\n\n")  # the prompt of some versions ends before the line breaks of the answer's header

_VIOLENT = frozenset({Category.VIOLENCE, Category.ILLICIT, Category.ILLICIT_VIOLENT})
_SEX_CRIMES = frozenset({Category.SEXUAL, Category.ILLICIT})
_MINORS = frozenset({Category.SEXUAL, Category.SEXUAL_MINORS})
_SELF_HARM = frozenset({Category.SELF_HARM})
# Versions have different names for a category. Names without a counterpart are not in the table.
_CATEGORIES: Mapping[str, frozenset[Category]] = {
    "violent crimes": _VIOLENT,
    "non-violent crimes": frozenset({Category.ILLICIT}),
    "sex crimes": _SEX_CRIMES,
    "sex-related crimes": _SEX_CRIMES,
    "child exploitation": _MINORS,
    "child sexual exploitation": _MINORS,
    "indiscriminate weapons": frozenset({Category.ILLICIT, Category.ILLICIT_VIOLENT}),
    "hate": frozenset({Category.HATE}),
    "self-harm": _SELF_HARM,
    "suicide & self-harm": _SELF_HARM,
    "sexual content": frozenset({Category.SEXUAL}),
    "code interpreter abuse": frozenset({Category.ILLICIT}),
}


class LlamaGuard:
    """The guard of this file."""

    wording = "llama-guard-1"

    def recognizes(self, template: ChatTemplate) -> bool:
        return _BEGIN in template.source

    def questions(self, template: ChatTemplate) -> list[GuardQuestion]:
        prompt = template.render([{"role": "user", "content": "Hello"}]).prompt
        listed = _CATEGORY.findall(prompt.partition(_BEGIN)[2].partition(_END)[0])
        named = {code: _CATEGORIES.get(name.casefold(), frozenset[Category]()) for code, name in listed}
        if not any(named.values()):
            return []
        labels = [_label("safe", frozenset())]
        for codes in (*((code,) for code in named), *itertools.permutations(named, 2)):
            categories = frozenset[Category]().union(*(named[code] for code in codes))
            labels.append(_label(f"unsafe\n{','.join(codes)}", categories))
        return [GuardQuestion({}, labels)]


def _label(text: str, categories: frozenset[Category]) -> GuardLabel:
    return GuardLabel([lead + text for lead in _LEADS], categories)
