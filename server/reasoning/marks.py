"""ReasoningMarks: the texts that enclose a model's thought, detected from its chat template."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import OptionError
from server.reasoning.probe import ANSWER, prompt_ends, shown_thoughts
from server.text.chat_templates.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """Texts that a model writes before and after its thought, without surrounding whitespace that is not a part of
    them."""

    start: str
    end: str
    answer_header: str = ""  # the last part of `end` if it belongs to the answer; tool calls have another header
    answer_ends: tuple[str, ...] = ()  # texts that end the answer and are dropped from it

    @property
    def thought_end(self) -> str:
        """Text after a thought, without the answer's header."""
        return self.end.removesuffix(self.answer_header)

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Parts of the marks that may be special tokens, which the detokenizer must keep."""
        tags = re.findall(_TAG, self.start + self.end + "".join(self.answer_ends))
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
HUNYUAN = ReasoningMarks("<think>", "</think>\n<answer>", answer_ends=("</answer>",))
KIMI_K3 = ReasoningMarks(
    "<|open|>think<|sep|>",
    "<|close|>think<|sep|><|open|>response<|sep|>",
    answer_ends=("<|close|>response<|sep|><|close|>message<|sep|>", "<|close|>message<|sep|>"),
)
HY3 = ReasoningMarks("<think:opensource>", "</think:opensource>")
LONGCAT = ReasoningMarks("<longcat_think>", "</longcat_think>")
MINIMAX_M3 = ReasoningMarks("<mm:think>", "</mm:think>")
# Harmony has more channels than these two; HarmonyReader reads all of them.
_FINAL = "<|channel|>final<|message|>"
HARMONY = ReasoningMarks("<|channel|>analysis<|message|>", f"<|end|><|start|>assistant{_FINAL}", _FINAL)
_MORE_OF_HARMONY = ("<|constrain|>", "<|call|>", "<|return|>")

# Messages to recipients, of which AddressedReader reads all
_TO_USER = " to=user<|message|>"
MUSE = ReasoningMarks(" to=self<|message|>", f"<|eom|><|start|>assistant{_TO_USER}", _TO_USER)

# The names that --reasoning-parser takes, which are vLLM's if it has the model
REASONING_PARSERS: Mapping[str, ReasoningMarks] = {
    "apertus": APERTUS,
    "apriel": APRIEL,
    "cohere_command3": COHERE,
    "cohere_command4": COHERE,
    "deepseek_r1": THINK,
    "deepseek_v3": THINK,
    "deepseek_v4": THINK,
    "ernie45": THINK,
    "exaone4": THINK,
    "gemma4": GEMMA,
    "glm45": THINK,
    "glm47": THINK,
    "granite": GRANITE,
    "holo2": THINK,
    "hunyuan_a13b": HUNYUAN,
    "hy_v3": HY3,
    "kimi_k2": THINK,
    "kimi_k3": KIMI_K3,
    "ling3": THINK,
    "longcat": LONGCAT,
    "mimo": THINK,
    "minimax_m1": THINK,
    "minimax_m2": THINK,
    "minimax_m3": MINIMAX_M3,
    "mistral": BRACKETS,
    "muse_glimmer": MUSE,
    "nemotron_v3": THINK,
    "olmo3": THINK,
    "openai_gptoss": HARMONY,
    "poolside_v1": THINK,
    "qwen3": THINK,
    "seed_oss": SEED,
    "step3": THINK,
    "step3p5": THINK,
}

_KNOWN = (THINK, BRACKETS, GEMMA, SEED, COHERE, GRANITE, APERTUS, APRIEL, KIMI_K3, HARMONY, MUSE)
_LAST_TAG = re.compile(f"(?:{_TAG})$")
_FIRST_TAG = re.compile(f"^(?:{_TAG})")
_ABOUT_THOUGHTS = re.compile("think|thought|reason", re.IGNORECASE)


def find_reasoning_marks(template: ChatTemplate) -> ReasoningMarks | None:
    """Return the marks of the template's model; None if the template shows none, as for models that do not think.

    The marks are searched around a rendered thought, then at the end of prompts, then in the template's source.
    """
    return _marks_around_thought(template) or _marks_at_prompt_end(template) or _marks_in_source(template)


def partial_mark(text: str, marks: Iterable[str]) -> int:
    """Return the largest number of characters at the end of `text` that begin a mark without completing it."""
    return max((_partial(text, mark) for mark in marks), default=0)


def _partial(text: str, mark: str) -> int:
    longest = min(len(mark) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if mark.startswith(text[-size:])), 0)


def opens_thought(prompt: str, marks: ReasoningMarks) -> bool:
    """Whether the prompt ends with the start of a thought, so that the model's output begins inside it."""
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
        # The text that opens the answer ends the thought.
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
    # The end is enough, since templates that only remove thoughts from earlier answers need no start.
    return next((marks for marks in _KNOWN if marks.end in template.source), None)


def marks_of_parser(name: str) -> ReasoningMarks:
    """Return the marks for a name of --reasoning-parser. Raises OptionError for an unknown name."""
    marks = REASONING_PARSERS.get(name)
    if marks is None:
        raise OptionError(
            f"--reasoning-parser {name!r} is not known; give one of {', '.join(REASONING_PARSERS)}, or leave it out to "
            "have the marks found from the chat template"
        )
    return marks
