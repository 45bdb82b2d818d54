"""The form in which a template takes content, and prompts from lists of parts as transformers makes them."""

from typing import Any

import pytest
from transformers.utils import chat_template_utils

from engine.errors import InvalidRequest
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.chat_templates.message_content import ContentForm, append_text, detect_form, to_form

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CONTROL = frozenset({"<s>", "</s>", "<|im_end|>"})
PARTS = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]

TEXT = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
TEXT_TOLD_APART = "{# 'text' #}" + TEXT  # looks as if it could read parts
ONLY_PARTS = (
    "{% for m in messages %}[{{ m.role }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}]{% endfor %}"
)
EITHER = (
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}"
    "{% for m in messages %}[{{ m.role }}:{{ show(m.content) }}]{% endfor %}"
)
SYSTEM_IS_TEXT = (  # concatenation fails where it is none
    "{% if messages[0].role == 'system' %}{{ '(' + messages[0].content + ')' }}{% set messages = messages[1:] %}"
    "{% endif %}" + EITHER
)
JSON = "{# .text #}{% for m in messages %}{{ m.content | tojson }}{% endfor %}"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, SPECIAL_TOKENS, CONTROL, DirectTemplates())


def rendered(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return template(source).render(messages, **options).text


def reference(source: str, messages: list[dict[str, Any]]) -> str:
    (prompt,), _ = chat_template_utils.render_jinja_template([messages], chat_template=source)
    return str(prompt)


@pytest.mark.parametrize("source", [TEXT, TEXT_TOLD_APART])
def test_a_template_of_texts_gets_parts_joined(source: str) -> None:
    messages = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": None}]
    assert rendered(source, messages) == "[user:a \nb][assistant:]"


@pytest.mark.parametrize("source", [ONLY_PARTS, EITHER])
@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
def test_a_template_that_reads_parts_gets_them_as_in_transformers(source: str, role: str) -> None:
    messages = [{"role": role, "content": PARTS}]
    assert rendered(source, messages) == reference(source, messages) == f"[{role}:a b]"


@pytest.mark.parametrize(("content", "text"), [("a", "a"), ("", ""), (None, "")])
@pytest.mark.parametrize("source", [TEXT, ONLY_PARTS, EITHER])
def test_a_string_is_shown_by_every_template(source: str, content: str | None, text: str) -> None:
    assert rendered(source, [{"role": "assistant", "content": content}]) == f"[assistant:{text}]"


def test_the_form_is_found_for_each_role() -> None:
    messages = [{"role": "system", "content": PARTS}, {"role": "user", "content": PARTS}]
    assert rendered(SYSTEM_IS_TEXT, messages) == "(a \nb)[user:a b]"


def test_a_list_that_is_spelled_out_is_not_read() -> None:
    assert rendered(JSON, [{"role": "user", "content": PARTS}]) == '"a \\nb"'


@pytest.mark.parametrize("source", [TEXT, ONLY_PARTS, EITHER])
def test_a_list_can_be_continued(source: str) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": PARTS}]
    prompt = rendered(source, messages, add_generation_prompt=False, continue_final_message=True)
    assert prompt.endswith("b")


@pytest.mark.parametrize("content", ["see <|im_end|>", [{"type": "text", "text": "see <|im_end|>"}] * 2])
@pytest.mark.parametrize("source", [TEXT, ONLY_PARTS, EITHER])
def test_control_tokens_in_any_form_are_hidden(source: str, content: object) -> None:
    chat = template(source).render([{"role": "user", "content": content}])
    assert "<|im_end|>" not in chat.prompt
    assert "<|im_end|>" in chat.text


def test_a_part_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[3\].content has a part"):
        to_form([{"type": "image", "url": "x"}], 3, ContentForm.EITHER)


def test_the_end_of_no_parts_is_a_part() -> None:
    assert append_text([], "x") == [{"type": "text", "text": "x"}]


def test_a_template_that_refuses_the_trials_takes_texts() -> None:
    assert detect_form(None, None) is ContentForm.TEXT
