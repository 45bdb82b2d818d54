"""TextModel: the model's way with text: its tokenizer, chat template, tool calls and thoughts."""

from dataclasses import dataclass

from engine.protocol import TokenizerInfo
from server.config import ServerConfig
from server.reasoning.effort import EffortVariables
from server.reasoning.history import find_thought_field
from server.reasoning.marks import ReasoningMarks, find_reasoning_marks
from server.reasoning.registry import marks_of_parser
from server.text.chat_template import ChatTemplate, load_chat_template
from server.text.tokenizer import Tokenizer
from server.tools.format import ToolFormat
from server.tools.history import GENERIC
from server.tools.probe import choose_tool_format, takes_system_message


@dataclass(frozen=True, slots=True)
class ChatModel:
    """How the model holds a conversation."""

    template: ChatTemplate
    tool_format: ToolFormat  # the generic one where the template shows no tools
    has_system_role: bool
    reasoning: ReasoningMarks | None  # None: it does not think
    thought_field: str | None  # of a message, that the template reads an earlier thought from
    effort: EffortVariables


@dataclass(frozen=True, slots=True)
class TextModel:
    tokenizer: Tokenizer
    chat: ChatModel | None  # None: a model without a chat template, and no --chat-template


def build_text_model(info: TokenizerInfo, config: ServerConfig) -> TextModel:
    """Takes a second for a large vocabulary. Raises StartupError if the model's tokenizer or template cannot be used,
    and OptionError for a parser that is not known."""
    tokenizer = Tokenizer(info)
    template = load_chat_template(
        config.chat_template, info.chat_template, info.special_tokens, tokenizer.special_texts
    )
    return TextModel(tokenizer, None if template is None else _chat_model(template, config))


def _chat_model(template: ChatTemplate, config: ServerConfig) -> ChatModel:
    reasoning_parser = config.reasoning_parser
    return ChatModel(
        template,
        choose_tool_format(template, config.tool_call_parser) or GENERIC,
        takes_system_message(template),
        find_reasoning_marks(template) if reasoning_parser is None else marks_of_parser(reasoning_parser),
        find_thought_field(template),
        EffortVariables(template),
    )
