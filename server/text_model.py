"""TextModel: a model's tokenizer, chat template, tool format and reasoning marks."""

from dataclasses import dataclass

from engine.errors import InvalidRequest, TextUnusable
from engine.protocol import TokenizerInfo
from server.config.server import ServerConfig
from server.reasoning.effort import EffortVariables
from server.reasoning.history import find_thought_field
from server.reasoning.marks import ReasoningMarks, find_reasoning_marks, marks_of_parser
from server.text.chat_templates.chat_template import ChatTemplate, load_chat_template
from server.text.chat_templates.runner import TemplateRunner
from server.text.fill_in_middle import FillInMiddle, find_fill_in_middle
from server.text.input_encoder import InputEncoder
from server.text.token_words import TokenWords
from server.text.tokenizer import Tokenizer
from server.text.workers import TextWorkers
from server.tools.detection.tool_format import choose_tool_format, takes_late_system_message, takes_system_message
from server.tools.format import ToolFormat
from server.tools.history import GENERIC


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A model's chat template, and what it supports: tools, system messages, reasoning."""

    template: ChatTemplate
    tool_format: ToolFormat  # the generic format if the template shows no tools
    has_system_role: bool
    takes_late_system: bool  # system messages may follow a user message
    reasoning: ReasoningMarks | None  # None: the model does not think
    thought_field: str | None  # field of a message from which the template reads an earlier thought
    effort: EffortVariables


@dataclass(frozen=True, slots=True)
class TextModel:
    """The text processing of one model: tokenizer, chat template and the threads they run on."""

    tokenizer: Tokenizer
    words: TokenWords
    inputs: InputEncoder  # tokenizes the inputs of pooling models
    workers: TextWorkers  # threads for rendering and tokenization
    chat: ChatModel | None  # None: a model without a chat template, and no --chat-template
    fill_in_middle: FillInMiddle | None = None  # None: the vocabulary has no FIM tokens

    @property
    def capabilities(self) -> list[str]:
        """Capabilities of the model under Ollama's names, such as "tools"."""
        found = ["completion"]
        if self.fill_in_middle is not None:
            found.append("insert")
        if self.chat is not None:
            found.append("tools")
            if self.chat.reasoning is not None:
                found.append("thinking")
        return found


def fill_in_middle_of(text_model: TextModel, param: str, *, instead: str) -> FillInMiddle:
    """Return the model's fill-in-the-middle tokens. Raises InvalidRequest if the model has none.

    param: the request's field that needs them. instead: the remedy that the error names.
    """
    if text_model.fill_in_middle is None:
        raise InvalidRequest(
            f"{param} needs a model that can fill in the middle, but the vocabulary of this model has no tokens for it "
            f"(such as <|fim_prefix|>); use a code model that has them, or {instead}",
            param=param,
        )
    return text_model.fill_in_middle


def build_text_model(
    info: TokenizerInfo, config: ServerConfig, workers: TextWorkers, templates: TemplateRunner
) -> TextModel:
    """Build a model's TextModel. workers: run its slow work. templates: runs its chat template.

    Takes a second for a large vocabulary. Raises StartupError (mostly TextUnusable) if the model's tokenizer or
    template cannot be used, and OptionError for an unknown parser.
    """
    try:
        tokenizer = Tokenizer(info)
    except InvalidRequest as error:  # of the texts that it is tried with
        raise TextUnusable(str(error)) from error
    template = load_chat_template(
        config.chat_template, info.chat_template, info.special_tokens, tokenizer.special_texts, templates
    )
    chat = None if template is None else _chat_model(template, config)
    fill_in_middle = find_fill_in_middle(tokenizer, info.fim_ids)
    return TextModel(tokenizer, TokenWords(tokenizer), InputEncoder(tokenizer), workers, chat, fill_in_middle)


def _chat_model(template: ChatTemplate, config: ServerConfig) -> ChatModel:
    reasoning_parser = config.reasoning_parser
    chat = ChatModel(
        template,
        choose_tool_format(template, config.tool_call_parser) or GENERIC,
        takes_system_message(template),
        takes_late_system_message(template),
        find_reasoning_marks(template) if reasoning_parser is None else marks_of_parser(reasoning_parser),
        find_thought_field(template),
        EffortVariables(template),
    )
    template.end_trial()
    return chat
