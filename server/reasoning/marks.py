"""ReasoningMarks: the texts around a model's thought, found from its chat template."""

import re
from dataclasses import dataclass

from server.reasoning.probe import ANSWER, prompt_ends, shown_thoughts
from server.text.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What a model writes before and after its thought, without the whitespace around them."""

    start: str
    end: str
    answer_header: str = ""  # the last part of `end`, where it belongs to the answer: a tool call has another there

    @property
    def thought_end(self) -> str:
        """What follows a thought, whatever comes then."""
        return self.end.removesuffix(self.answer_header)

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The pieces that may be special tokens, and must not be dropped by the detokenizer."""
        tags = re.findall(_TAG, self.start + self.end)
        return tuple(dict.fromkeys([*tags, *_MORE_OF_HARMONY] if self == HARMONY else tags))


_TAG = r"<[^<>\s]*>|\[[^\[\]\s]*\]"

THINK = ReasoningMarks("<think>", "</think>")
BRACKETS = ReasoningMarks("[THINK]", "[/THINK]")
GEMMA = ReasoningMarks("<|channel>thought", "<channel|>")
SEED = ReasoningMarks("<seed:think>", "</seed:think>")
COHERE = ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>")
GRANITE = ReasoningMarks("Here is my thought process:", "Here is my response:")
APERTUS = ReasoningMarks("<|inner_prefix|>", "<|inner_suffix|>")
APRIEL = ReasoningMarks("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]")
KIMI_K3 = ReasoningMarks("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>")
# Harmony has more channels than these two; HarmonyReader reads them all.
_FINAL = "<|channel|>final<|message|>"
HARMONY = ReasoningMarks("<|channel|>analysis<|message|>", f"<|end|><|start|>assistant{_FINAL}", _FINAL)
_MORE_OF_HARMONY = ("<|constrain|>", "<|call|>", "<|return|>")

_KNOWN = (THINK, BRACKETS, GEMMA, SEED, COHERE, GRANITE, APERTUS, APRIEL, KIMI_K3, HARMONY)
_LAST_TAG = re.compile(f"(?:{_TAG})$")
_FIRST_TAG = re.compile(f"^(?:{_TAG})")
_ABOUT_THOUGHTS = re.compile("think|thought|reason", re.IGNORECASE)


def find_reasoning_marks(template: ChatTemplate) -> ReasoningMarks | None:
    """The marks of the model that the template belongs to; None for one that does not think as far as can be seen.

    Looked for where the template shows a message's thought, then at the end of its prompts, then in its source.
    """
    return _marks_around_thought(template) or _marks_at_prompt_end(template) or _marks_in_source(template)


def opens_thought(prompt: str, marks: ReasoningMarks) -> bool:
    """Whether the prompt ends with an open thought, so that the model's text begins inside it."""
    return prompt.rstrip().endswith(marks.start)


def _marks_around_thought(template: ChatTemplate) -> ReasoningMarks | None:
    for before, after in shown_thoughts(template):
        before, after = before.rstrip(), after.lstrip()
        for marks in _KNOWN:
            if before.endswith(marks.start):
                return marks
        start = _LAST_TAG.search(before)
        if start is None or not _ABOUT_THOUGHTS.search(start[0]):
            continue
        end = _FIRST_TAG.search(after)
        if end is not None and _ABOUT_THOUGHTS.search(end[0]):
            return ReasoningMarks(start[0], end[0])
        # The thought ends with the opening of the answer.
        opening, has_answer, _ = after.partition(ANSWER)
        if has_answer and opening.strip():
            return ReasoningMarks(start[0], opening.strip())
    return None


def _marks_at_prompt_end(template: ChatTemplate) -> ReasoningMarks | None:
    for prompt in prompt_ends(template):
        for marks in _KNOWN:
            if prompt.rstrip().endswith((marks.start, marks.end)):
                return marks
    return None


def _marks_in_source(template: ChatTemplate) -> ReasoningMarks | None:
    # The end alone is enough: templates that only cut thoughts out of earlier answers need no start.
    return next((marks for marks in _KNOWN if marks.end in template.source), None)
