"""AnswerPlan: the grammar of a whole answer accepts what a model of each kind writes, and nothing that it must not."""

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from engine.protocol import TokenizerInfo
from server.chat.openai_fields import offered_tools
from server.chat.rendering import RenderedPrompt
from server.chat.tools import chat_tools
from server.config.server import ServerConfig
from server.generation.answer_plan import plan_answer
from server.generation.choice_reader import Content, join_pieces
from server.metrics.values import Metrics
from server.schemas.base import validate
from server.schemas.chat import ChatCompletionRequest
from server.structured_outputs.request import constraint_of
from server.text.chat_templates.chat_template import RenderedChat
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.workers import TextWorkers
from server.text_model import ChatModel, TextModel, build_text_model
from tests.helpers.fake_client import byte_tokenizer

pytestmark = pytest.mark.fast

HARMONY = ("<|start|>", "<|eom|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>")
END = "<|im_end|>"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        },
    }
]


def _tokenizer_json() -> str:
    tokenizer = Tokenizer.from_str(byte_tokenizer().decode())
    tokenizer.add_special_tokens([AddedToken(mark) for mark in (*HARMONY, *THINK)])
    return str(tokenizer.to_str())


def _model(*, tools: str, reasoning: str | None = None) -> tuple[TextModel, ChatModel]:
    info = TokenizerInfo(
        tokenizer_json=_tokenizer_json().encode(),
        chat_template=TEMPLATE,
        special_tokens={},
        bos_token_id=None,
        eos_token_ids=[258],
        add_bos_token=False,
    )
    model = build_text_model(
        info, ServerConfig(tool_call_parser=tools, reasoning_parser=reasoning), TextWorkers(), DirectTemplates()
    )
    assert model.chat is not None
    return model, model.chat


def _accepts(model: TextModel, chat: ChatModel, prompt: str, text: str, **fields: object) -> bool:
    """Whether the answer's grammar takes `text` as a whole."""
    body = validate(ChatCompletionRequest, {"messages": [{"role": "user", "content": "hi"}], **fields})
    tools = chat_tools(offered_tools(body))
    plan = plan_answer(
        RenderedPrompt(RenderedChat(prompt, {}), tools, [], is_generic=False),
        chat,
        model.tokenizer,
        constraint=constraint_of(body.model_extra or {}),
        thinking_budget=None,
    )
    assert plan.grammar is not None
    tokenizer = LLTokenizer(_tokenizer_json(), eos_token=[258])
    matcher = LLMatcher(tokenizer, plan.grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    return all(matcher.consume_token(token_id) for token_id in ids) and matcher.is_accepting()


THOUGHT = "<|channel|>analysis<|message|>Hm, {x}.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}'
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "fields", "is_right"),
    [
        (f"{THOUGHT}{FINAL}yes", {"guided_choice": ["yes", "no"]}, True),
        (f"{FINAL}no", {"guided_choice": ["yes", "no"]}, True),
        (f"{THOUGHT}{FINAL}maybe", {"guided_choice": ["yes", "no"]}, False),
        (f"{THOUGHT}yes", {"guided_choice": ["yes", "no"]}, False),
        (f"{THOUGHT}{CALL}", {"tools": TOOLS}, True),
        (f"{THOUGHT}{FINAL}Just text.", {"tools": TOOLS}, True),
        (f"{THOUGHT}{CALL.replace('1', 'true')}", {"tools": TOOLS}, False),
        (f"{THOUGHT}{FINAL}Just text.", {"tools": TOOLS, "tool_choice": "required"}, False),
    ],
)
def test_harmony(text: str, fields: dict[str, object], is_right: bool) -> None:
    model, chat = _model(tools="openai", reasoning="openai_gptoss")
    assert _accepts(model, chat, "<|start|>assistant", text, **fields) is is_right


TO_TOOL = (
    ' to=add<|message|><atem:function_calls>\n<atem:invoke name="add">\n<atem:parameter name="a">1</atem:parameter>\n'
    "</atem:invoke>\n</atem:function_calls>"
)
TO_SELF = " to=self<|message|>Hm, {x}.<|eom|><|start|>assistant"
TO_USER = " to=user<|message|>"


@pytest.mark.parametrize(
    ("text", "fields", "is_right"),
    [
        (f"{TO_SELF}{TO_USER}yes", {"guided_choice": ["yes"]}, True),
        (f"{TO_USER}yes", {"guided_choice": ["yes"]}, True),
        (f"{TO_SELF}yes", {"guided_choice": ["yes"]}, False),
        (f"{TO_SELF}{TO_TOOL}", {"tools": TOOLS, "tool_choice": "required"}, True),
        (f"{TO_SELF}{TO_TOOL}<|eom|><|start|>assistant{TO_TOOL}", {"tools": TOOLS}, True),
        (f"{TO_SELF}{TO_USER}Just text.", {"tools": TOOLS}, True),
        (f"{TO_SELF}{TO_USER}Just text.", {"tools": TOOLS, "tool_choice": "required"}, False),
        (f"{TO_SELF}{TO_TOOL.replace('1', 'true')}", {"tools": TOOLS}, False),
    ],
)
def test_messages_to_recipients(text: str, fields: dict[str, object], is_right: bool) -> None:
    model, chat = _model(tools="muse_glimmer", reasoning="muse_glimmer")
    assert _accepts(model, chat, "<|start|>assistant", text, **fields) is is_right


@pytest.mark.parametrize(
    ("prompt", "text", "fields", "is_right"),
    [
        (">>>", "all\nyes", {"guided_choice": ["yes"]}, True),
        (">>>", "yes", {"guided_choice": ["yes"]}, False),
        ("so far", "yes", {"guided_choice": ["yes"]}, True),
        (">>>", 'add\n{"a": 1}', {"tools": TOOLS}, True),
        (">>>", 'add\n{"a": true}', {"tools": TOOLS}, False),
        (">>>", "all\nJust text.", {"tools": TOOLS}, True),
        (">>>", "Just text.", {"tools": TOOLS}, False),
    ],
)
def test_answers_that_name_their_recipient(prompt: str, text: str, fields: dict[str, object], is_right: bool) -> None:
    model, chat = _model(tools="functionary_v32")
    assert _accepts(model, chat, prompt, text, **fields) is is_right


@pytest.mark.parametrize(("prompt", "content"), [(">>>", "Hello"), ("so far", "all\nHello")])
def test_recipient_of_an_answer_without_tools_is_not_part_of_it(prompt: str, content: str) -> None:
    model, chat = _model(tools="functionary_v32")
    rendered = RenderedPrompt(RenderedChat(prompt, {}), None, [], is_generic=False)
    plan = plan_answer(rendered, chat, model.tokenizer, constraint=None, thinking_budget=None)
    reader = plan.reader(Metrics("m"))

    pieces = [Content("all\nHello")] if reader is None else reader.push("all\nHello", is_last=True)

    assert join_pieces(list(pieces)) == [Content(content)]


TAGGED = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("prompt", "text", "fields", "is_right"),
    [
        ("", "<think>\nhm\n</think>\n\nyes", {"guided_choice": ["yes"]}, True),
        ("", "yes", {"guided_choice": ["yes"]}, True),
        ("", "<think>\nhm\n</think>\n\nno", {"guided_choice": ["yes"]}, False),
        ("<think>\n", "hm\n</think>\n\nyes", {"guided_choice": ["yes"]}, True),
        ("<think>\n", "yes", {"guided_choice": ["yes"]}, False),
        ("<think>\n\n</think>\n\n", "yes", {"guided_choice": ["yes"]}, True),
        ("<think>\n\n</think>\n\n", "hm</think>yes", {"guided_choice": ["yes"]}, False),
        ("<think>\n", f"hm</think>{TAGGED}", {"tools": TOOLS, "tool_choice": "required"}, True),
        ("<think>\n", f"hm</think>So: {TAGGED}", {"tools": TOOLS}, True),
        ("<think>\n", f"hm</think>{TAGGED.replace('1', 'null')}", {"tools": TOOLS}, False),
        ("", TAGGED, {"tools": TOOLS, "guided_choice": ["yes"]}, True),
        ("", "yes", {"tools": TOOLS, "guided_choice": ["yes"]}, True),
        ("", "no", {"tools": TOOLS, "guided_choice": ["yes"]}, False),
        ("", "yes", {"tools": TOOLS, "guided_choice": ["yes"], "tool_choice": "required"}, False),
    ],
)
def test_tags(prompt: str, text: str, fields: dict[str, object], is_right: bool) -> None:
    model, chat = _model(tools="hermes", reasoning="qwen3")
    assert _accepts(model, chat, prompt, text, **fields) is is_right
