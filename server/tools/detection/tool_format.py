"""Detection of the tool format of a chat template, by rendering chats with known calls.

The text around names and arguments in a rendered chat is the text to search for in answers, and to enforce:

    <tool_call>\\n{"name": "N", "arguments": {...}}\\n</tool_call>\\n<tool_call>\\n{"name": "M", ...
    [ open                ][ body                           ][separator][ open          ...
"""

import dataclasses
import re

from engine.errors import InvalidRequest
from server.text.chat_templates.chat_template import ChatTemplate
from server.tools.detection.call_layout import find_layout
from server.tools.detection.renderings import (
    ARGUMENTS,
    ARGUMENTS_OBJECT,
    ARGUMENTS_TEXT,
    CALLS,
    KEYS,
    TEXT,
    USER,
    Renderings,
)
from server.tools.format import ToolFormat, WrittenCall
from server.tools.formats.mistral import MistralFormat
from server.tools.layout import CallLayout
from server.tools.reading.parser import CallEnd, CallStart
from server.tools.registry import named_format
from server.tools.styles.json_format import JsonFormat
from server.tools.styles.tagged_format import TaggedFormat
from server.tools.styles.tagged_layout import TaggedLayout

# Formats that a rendered call does not show completely, by a text in it
_RECOGNIZED = (
    ("<|tool_call_argument_begin|>", "kimi_k2"),
    ('<|open|>call tool="', "kimi_k3"),
    ("<|channel|>commentary", "openai"),
    ("<|tool_call>call:", "gemma4"),
    ("<atem:function_calls>", "muse_glimmer"),
    ("]<]minimax[>[<invoke", "minimax_m3"),
    ("<start_function_call>call:", "functiongemma"),
    (f"<|tool_call_start|>[{CALLS[0].name}(", "lfm2"),
    (f"[{CALLS[0].name}(", "pythonic"),
)
# Formats whose template drops earlier calls, by a text in the prompt; the first that occurs counts.
_HINTS = (
    ("<|tool_call|>", "granite"),
    ("<|tool_list_start|>", "lfm2"),
    ("<|im_middle|>", "kimi_k2"),
    ("List of tools: [", "lfm2"),
    ("<|/tool|>", "phi4_mini_json"),
    ("<tool_call>", "hermes"),
)


def find_tool_format(template: ChatTemplate) -> ToolFormat | None:
    """Return the template's tool format; None if the template shows no tools, or its calls cannot be interpreted.

    Renders some ten short chats.
    """
    renderings = Renderings(template)
    if not renderings.shows_tools:
        return None
    takes_object = _takes_object(renderings)
    if takes_object is None:
        prompt = renderings.prompt or ""
        name = next((name for hint, name in _HINTS if hint in prompt), None)
        return None if name is None else _adapt(named_format(name), renderings, takes_object)
    found = _find_format(renderings, takes_object=takes_object)
    return None if found is None else _adapt(found, renderings, takes_object)


def choose_tool_format(template: ChatTemplate, name: str | None) -> ToolFormat | None:
    """Return the format that --tool-call-parser names, else the detected one, else None, which means "generic".

    A named format is adapted to how the template renders earlier calls. Raises OptionError for an unknown name.
    """
    found = None if name == "generic" else find_tool_format(template)
    if name is None or (found is not None and found.name == name):
        return found
    named = named_format(name)
    if name == "generic":
        return named
    renderings = Renderings(template)
    return _adapt(named, renderings, _takes_object(renderings))


def takes_system_message(template: ChatTemplate) -> bool:
    """Whether the template renders a system message. If not, instructions go into the user's first message."""
    return _renders_text(template, [{"role": "system", "content": TEXT}, {"role": "user", "content": USER}])


def takes_late_system_message(template: ChatTemplate) -> bool:
    """Whether the template renders a system message after a user message."""
    return _renders_text(template, [{"role": "user", "content": USER}, {"role": "system", "content": TEXT}])


def _renders_text(template: ChatTemplate, messages: list[dict[str, str]]) -> bool:
    try:
        return TEXT in template.render(messages).text
    except InvalidRequest:
        return False


def _takes_object(renderings: Renderings) -> bool | None:
    """Whether the template needs a call's arguments as an object, not as text; None if it does not render calls.

    False for a template that takes both: arguments in the model's own spelling hit the prefix cache.
    """
    as_object = renderings.answer(1, takes_object=True) or ""
    # A template that writes the arguments without a filter turns an object into Python's text.
    is_python = str(ARGUMENTS_OBJECT) in as_object
    if all(key in as_object for key in KEYS) and not ARGUMENTS.search(as_object) and not is_python:
        # Arguments that are not JSON: the model does not write JSON text.
        return True
    as_text = renderings.answer(1, takes_object=False) or ""
    if ARGUMENTS_TEXT in as_text:
        return False
    return True if ARGUMENTS.search(as_object) else None


def _find_format(renderings: Renderings, *, takes_object: bool) -> ToolFormat | None:
    answer = renderings.answer(1, takes_object=takes_object) or ""
    for mark, name in _RECOGNIZED:
        if mark in answer:
            return named_format(name)
    if (renderings.prompt or "").endswith(">>>") and answer.startswith(f"{CALLS[0].name}\n"):
        return named_format("functionary_v32")
    if re.search(rf"<function_calls>\s*{CALLS[0].name}\(", answer):
        return named_format("olmo3")
    layout = find_layout(renderings, takes_object=takes_object)
    if layout is None:
        return None
    spelled = ARGUMENTS.search(renderings.answer(1, takes_object=True) or "")
    if isinstance(layout, CallLayout) and spelled is not None and "\n" not in spelled.group():
        layout = dataclasses.replace(
            layout, item_separator=spelled["item_separator"], key_separator=spelled["key_separator"]
        )
    found = _format_of(layout)
    call = layout.call if isinstance(layout, TaggedLayout) else layout
    return found if _round_trips(found, answer, 1 + call.takes_several) else None


def _format_of(layout: CallLayout | TaggedLayout) -> ToolFormat:
    if isinstance(layout, TaggedLayout):
        return TaggedFormat("template", layout)
    if layout.trigger == "[TOOL_CALLS]":
        return MistralFormat("mistral", layout, call_id_length=9)
    # Llama models write the mark before calls, their template does not.
    return JsonFormat("template", layout, other_triggers=() if layout.trigger else ("<|python_tag|>",))


def _round_trips(found: ToolFormat, answer: str, num_calls: int) -> bool:
    """Whether the format writes calls as the template does, and parses them back."""
    match = ARGUMENTS.search(answer)
    arguments = match.group() if match else ARGUMENTS_TEXT
    calls = [WrittenCall(call.name, arguments, call.id) for call in CALLS[:num_calls]]
    if found.write(calls[:1]).strip() not in answer:
        return False
    parser = found.parser({call.name for call in CALLS})
    events = [*parser.push(found.write(calls)), *parser.finish()]
    starts = [event.name for event in events if isinstance(event, CallStart)]
    num_ends = sum(isinstance(event, CallEnd) for event in events)
    return starts == [call.name for call in calls] and num_ends == len(starts)


def _adapt(found: ToolFormat, renderings: Renderings, takes_object: bool | None) -> ToolFormat:
    """Adapt the format to how the template renders earlier calls. takes_object: the result of `_takes_object`."""
    renders_calls = takes_object is not None
    two = renderings.answer(2, takes_object=takes_object is not False) or ""
    shows_both = CALLS[1].name in two or CALLS[1].id in two
    return dataclasses.replace(
        found,
        takes_object_arguments=takes_object is not False,
        renders_calls=renders_calls,
        takes_several_calls=shows_both or not renders_calls,
    )
