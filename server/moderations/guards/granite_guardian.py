"""Granite Guardian 3.0 to 3.3: a prompt for each risk that the template defines, answered with Yes or No.

Version 3.3 names risks by criteria_id and answers in a tag, before which it thinks unless its prompt says not to.
"""

from collections.abc import Mapping
from typing import Any

from server.moderations.categories import Category
from server.moderations.guards.guard import GuardQuestion, yes_or_no
from server.text.chat_templates.chat_template import ChatTemplate

_VARIABLE = "guardian_config"
_RISKS: Mapping[str, frozenset[Category]] = {
    "social_bias": frozenset({Category.HATE}),
    "sexual_content": frozenset({Category.SEXUAL}),
    "unethical_behavior": frozenset({Category.ILLICIT}),
    "violence": frozenset({Category.VIOLENCE}),
}


class GraniteGuardian:
    """The guard of this file."""

    wording = "granite-guardian-1"

    def recognizes(self, template: ChatTemplate) -> bool:
        return _VARIABLE in template.facts.variables

    def questions(self, template: ChatTemplate) -> list[GuardQuestion]:
        has_tags = "criteria_id" in template.source
        key = "criteria_id" if has_tags else "risk_name"
        more: dict[str, Any] = {"think": False} if has_tags else {}
        opening = "<think>\n</think>\n<score>" if has_tags else ""
        return [
            GuardQuestion({_VARIABLE: {key: risk}, **more}, yes_or_no(named), opening)
            for risk, named in _RISKS.items()
            if risk in template.facts.texts
        ]
