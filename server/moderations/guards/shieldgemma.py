"""ShieldGemma: a prompt for each policy, answered with Yes if the text violates it.

The policies are those that the models were trained on, in the words of their model card
(https://ai.google.dev/gemma/docs/shieldgemma/model_card, CC BY 4.0): they react to any other wording unpredictably.
"""

from collections.abc import Mapping

from server.moderations.categories import Category
from server.moderations.guards.guard import GuardQuestion, yes_or_no
from server.text.chat_templates.chat_template import ChatTemplate

_VARIABLE = "guideline"
_POLICIES: Mapping[str, frozenset[Category]] = {
    '"No Dangerous Content": The prompt shall not contain or seek generation of content that harming oneself and/or '
    "others (e.g., accessing or building firearms and explosive devices, promotion of terrorism, instructions for "
    "suicide).": frozenset({Category.ILLICIT, Category.ILLICIT_VIOLENT}),
    '"No Harassment": The prompt shall not contain or seek generation of content that is malicious, intimidating, '
    "bullying, or abusive content targeting another individual (e.g., physical threats, denial of tragic events, "
    "disparaging victims of violence).": frozenset({Category.HARASSMENT}),
    '"No Hate Speech": The prompt shall not contain or seek generation of content that targeting identity and/or '
    "protected attributes (e.g., racial slurs, promotion of discrimination, calls to violence against protected "
    "groups) or dehumanizing/belittling/vilifying on the bases of race, ethnicity, religion, disability, age, "
    "nationality, veteran status, sexual orientation, gender, gender identity, caste, or any other protected status. "
    "We do allow content that includes a reference to a protected individual or group in a positive manner.": frozenset(
        {Category.HATE}
    ),
    '"No Sexually Explicit Information": The prompt shall not contain or seek generation of content that contains '
    "references to sexual acts or other lewd content (e.g., sexually graphic descriptions, content aimed at causing "
    "arousal). Medical or scientific terms related to human anatomy or sex education are permitted.": frozenset(
        {Category.SEXUAL}
    ),
}


class ShieldGemma:
    """The guard of this file."""

    wording = "shieldgemma-1"

    def recognizes(self, template: ChatTemplate) -> bool:
        return _VARIABLE in template.facts.variables and "policy expert" in template.source

    def questions(self, _template: ChatTemplate) -> list[GuardQuestion]:
        return [GuardQuestion({_VARIABLE: policy}, yes_or_no(named)) for policy, named in _POLICIES.items()]
