"""find_reasoning_marks: over small templates of the shapes that models have."""

import pytest

from server.reasoning.marks import (
    BRACKETS,
    COHERE,
    GEMMA,
    GRANITE,
    HARMONY,
    MUSE,
    THINK,
    ReasoningMarks,
    find_reasoning_marks,
    opens_thought,
)
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates

pytestmark = pytest.mark.fast

USER = [{"role": "user", "content": "Hello"}]


def shows_thought(before: str, after: str, *, field: str = "reasoning_content", condition: str = "true") -> str:
    """A template that writes an assistant's thought, where it has one and `condition` holds."""
    return (
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' }}"
        f"{{% if m.{field} and {condition} %}}{{{{ '{before}' ~ m.{field} ~ '{after}' }}}}{{% endif %}}"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )


def opens_answer(opening: str) -> str:
    """A template that shows no thoughts, with an expression for what its prompts end with."""
    return (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        f"{{% if add_generation_prompt %}}<|assistant|>{opening}{{% endif %}}"
    )


def chat_template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, frozenset({"<|user|>", "<|assistant|>", "<think>", "</think>"}), DirectTemplates())


def find(source: str) -> ReasoningMarks | None:
    return find_reasoning_marks(chat_template(source))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_marks_are_found_around_the_thought_in_any_field(field: str) -> None:
    assert find(shows_thought(r"<think>\n", r"\n</think>\n\n", field=field)) == THINK


def test_marks_are_found_where_only_tool_calls_show_the_thought() -> None:
    assert find(shows_thought("<|channel>thought ", "<channel|>", condition="m.tool_calls")) == GEMMA


def test_marks_are_found_where_only_thinking_shows_the_thought() -> None:
    assert find(shows_thought("<|START_THINKING|>", "<|END_THINKING|>", condition="enable_thinking")) == COHERE


def test_marks_that_are_not_known_are_found_by_their_words() -> None:
    assert find(shows_thought("<mm:think>", "</mm:think>")) == ReasoningMarks("<mm:think>", "</mm:think>")


def test_marks_end_with_the_opening_of_the_answer_where_no_mark_closes_the_thought() -> None:
    expected = ReasoningMarks("<|think|>", "<|end|><|begin|>assistant<|content|>")
    assert find(shows_thought("<|think|>", "<|end|><|begin|>assistant<|content|>")) == expected


def test_marks_of_harmony_are_found_by_its_analysis_channel() -> None:
    end = "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert find(shows_thought("<|channel|>analysis<|message|>", end, field="thinking")) == HARMONY


def test_marks_of_messages_to_recipients_are_found_by_the_one_to_the_model() -> None:
    end = "<|eom|><|start|>assistant to=user<|message|>"
    assert find(shows_thought("<|start|>assistant to=self<|message|>", end)) == MUSE


def test_tags_that_do_not_speak_of_thoughts_are_no_marks() -> None:
    assert find(shows_thought("<|sep|>", "<|sep|>")) is None


@pytest.mark.parametrize(
    "opening",
    [
        "<think>\n",
        "{% if enable_thinking %}<think>{% endif %}",
        "{% if thinking %}<think>{% endif %}",
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
    ],
)
def test_marks_are_found_at_the_end_of_prompts(opening: str) -> None:
    assert find(opens_answer(opening)) == THINK


@pytest.mark.parametrize(
    ("mention", "marks"),
    [
        ("{% set texts = content.split('</think>') if content else [] %}", THINK),
        ("{% if messages[0].blocks %}[THINK]{{ messages[0].blocks }}[/THINK]{% endif %}", BRACKETS),
        ("{% if thinking %}Write 'Here is my thought process:' and 'Here is my response:'.{% endif %}", GRANITE),
    ],
)
def test_marks_are_found_in_the_source(mention: str, marks: ReasoningMarks) -> None:
    assert find(mention + opens_answer("")) == marks


def test_template_without_thoughts_has_no_marks() -> None:
    assert find(opens_answer("")) is None


def test_template_that_refuses_the_trial_chats_has_no_marks() -> None:
    assert find("{{ raise_exception('no') }}") is None


@pytest.mark.parametrize(
    ("opening", "is_open"),
    [("<think>\n", True), ("<think>", True), ("<think>\n\n</think>\n\n", False), ("</think>", False), ("", False)],
)
def test_prompt_opens_a_thought_only_at_its_end(opening: str, is_open: bool) -> None:
    prompt = chat_template(opens_answer(opening)).render([{"role": "user", "content": "What is <think>?"}]).text
    assert opens_thought(prompt, THINK) == is_open


@pytest.mark.parametrize(
    ("marks", "texts"),
    [
        (THINK, {"<think>", "</think>"}),
        (BRACKETS, {"[THINK]", "[/THINK]"}),
        (GEMMA, {"<|channel>", "<channel|>"}),
        (GRANITE, set()),
        (
            HARMONY,
            {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"},
        ),
    ],
)
def test_special_texts_are_the_tags_of_the_marks(marks: ReasoningMarks, texts: set[str]) -> None:
    assert set(marks.special_texts) == texts
