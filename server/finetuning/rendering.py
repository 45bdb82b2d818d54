"""Renderer: tokenizes training lines to passages, as the served model would see them, and marks the trained tokens."""

from collections.abc import Sequence
from typing import Protocol

from engine.command_io.finetuning.items import Passage
from engine.errors import InvalidRequest
from server.chat.openai_fields import chat_of
from server.chat.rendering import template_messages
from server.chat.tools import chat_tools
from server.finetuning.faults import InvalidLine
from server.finetuning.lines import Completion, Document, TrainingChat
from server.schemas.chat import ChatTemplateFields
from server.text_model import ChatModel, TextModel
from server.tools.history import template_chat

_NO_TEMPLATE = (
    "the model has no chat template; give it one (--chat-template), or train by the method supervised, with lines of "
    "prompt and completion"
)


class LineTokenizer(Protocol):
    """Token ids of texts and chats, as the model that is trained sees them. Methods raise InvalidLine for content that
    the tokenizer or the chat template refuses."""

    @property
    def eos_token_ids(self) -> Sequence[int]: ...

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a text with which a sequence begins; it may spell control tokens."""
        ...

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of a text that follows another one, in which nothing is a control token."""
        ...

    def chat_ids(self, fields: ChatTemplateFields, num_messages: int, *, add_generation_prompt: bool) -> list[int]:
        """Return the ids of the first messages of a chat."""
        ...


class ModelTokens:
    """LineTokenizer with the tokenizer and the chat template of a TextModel."""

    def __init__(self, text_model: TextModel) -> None:
        self._tokenizer = text_model.tokenizer
        self._chat = text_model.chat

    @property
    def eos_token_ids(self) -> Sequence[int]:
        return self._tokenizer.eos_token_ids

    def text_ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def answer_ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, parse_special=False)

    def chat_ids(self, fields: ChatTemplateFields, num_messages: int, *, add_generation_prompt: bool) -> list[int]:
        chat = self._model()
        try:
            conversation = chat_of(fields)
            tools = chat_tools(conversation.tools)
            definitions = [] if tools is None else tools.definitions
            messages = template_messages(conversation.messages[:num_messages], chat)
            written = template_chat(chat.tool_format, messages, definitions, has_system_role=chat.has_system_role)
            rendered = chat.template.render(
                written.messages, tools=written.tools, add_generation_prompt=add_generation_prompt
            )
        except InvalidRequest as error:
            raise InvalidLine(str(error)) from None
        return self._tokenizer.encode_chat(rendered.prompt, rendered.hidden)

    def _model(self) -> ChatModel:
        if self._chat is None:
            raise InvalidLine(_NO_TEMPLATE)
        return self._chat


class Renderer:
    """Tokenizes training lines. Methods raise InvalidLine for content that the chat template cannot render."""

    def __init__(self, tokens: LineTokenizer, max_length: int) -> None:
        """max_length: the most tokens of a passage. `num_cut` counts the passages that were truncated to it."""
        self._tokens = tokens
        self._max_length = max_length
        self.num_cut = 0

    def chat(self, chat: TrainingChat) -> list[Passage]:
        """Return one passage if each turn renders as a prefix of the whole chat; otherwise one for each trained turn,
        since some templates drop the reasoning of earlier turns."""
        turns = [self._turn(chat.fields, index) for index, is_learned in enumerate(chat.learned) if is_learned]
        last = turns[-1].ids
        if all(last[: len(turn.ids)] == turn.ids for turn in turns):
            return [self._cut(Passage(last, [turn.trained[0] for turn in turns]))]
        return [self._cut(turn) for turn in turns]

    def prompt(self, fields: ChatTemplateFields, num_messages: int) -> Passage:
        """Return the prompt that the server would render for the first messages. None of its tokens is trained."""
        return Passage(self._tokens.chat_ids(fields, num_messages, add_generation_prompt=True))

    def question(self, text: str) -> Passage:
        return self.prompt(ChatTemplateFields(messages=[{"role": "user", "content": text}]), 1)  # type: ignore[list-item]

    def completion(self, completion: Completion) -> list[Passage]:
        prompt = self._tokens.text_ids(completion.prompt)
        answer = self._tokens.answer_ids(completion.completion)
        ids = [*prompt, *answer, *self._tokens.eos_token_ids[:1]]
        if not prompt:
            raise InvalidLine('prompt is ""; give at least one token, or train by the method pretraining')
        return [self._cut(Passage(ids, [(len(prompt), len(ids))]))]

    def document(self, document: Document) -> list[Passage]:
        """Split a document into passages of `max_length` tokens. Each passage starts with the last token of the passage
        before it."""
        ids = [*self._tokens.text_ids(document.text), *self._tokens.eos_token_ids[:1]]
        step = self._max_length - 1
        parts = [ids[start : start + self._max_length] for start in range(0, max(1, len(ids) - 1), step)]
        if len(parts[0]) < 2:
            raise InvalidLine('text is ""; give a text')
        return [Passage(part, [(1, len(part))]) for part in parts]

    def _turn(self, fields: ChatTemplateFields, index: int) -> Passage:
        """Return the chat through message `index`, which is trained, with the token that ends the turn."""
        prompt = self._tokens.chat_ids(fields, index, add_generation_prompt=True) if index else []
        ids = self._tokens.chat_ids(fields, index + 1, add_generation_prompt=False)
        first = _common(prompt, ids)
        if first < len(prompt):  # the template opens reasoning in a prompt, and writes answers without
            opened = self._tokens.chat_ids(fields, index, add_generation_prompt=False)
            if first < _common(opened, ids) or not first:
                raise InvalidLine(
                    f"the chat template does not write the answer of messages[{index}] after its prompt, so it cannot "
                    "be learned; the model needs another template (--chat-template)"
                )
        ends = [place for place in range(first, len(ids)) if ids[place] in self._tokens.eos_token_ids]
        if ends:
            ids = ids[: ends[-1] + 1]
        else:
            ids = [*ids, *self._tokens.eos_token_ids[:1]]
        if first >= len(ids):
            raise InvalidLine(f"messages[{index}] is empty; nothing would be learned from it")
        return Passage(ids, [(max(1, first), len(ids))])

    def _cut(self, passage: Passage) -> Passage:
        """Truncate a passage to `max_length` tokens. Raises InvalidLine if no trained token is left."""
        if len(passage.ids) <= self._max_length:
            return passage
        self.num_cut += 1
        trained = [(first, min(last, self._max_length)) for first, last in passage.trained if first < self._max_length]
        if not trained:
            raise InvalidLine(
                f"it has {len(passage.ids):,} tokens, and the text to learn starts after {self._max_length:,} "
                "(max_length); raise that, or shorten the line"
            )
        return Passage(passage.ids[: self._max_length], trained)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
