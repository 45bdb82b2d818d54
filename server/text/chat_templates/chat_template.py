"""ChatTemplate: renders a chat to a prompt with the checkpoint's Jinja template, as in the training of the model.

Templates have the same Jinja settings, functions and variables as in transformers. Clients' messages are changed in
three ways before they are rendered:

- content: null becomes "", and text parts are joined by line breaks if the template takes only a text; see
  server/text/chat_templates/message_content.py.
- role: "developer" becomes "system" unless the template's source mentions "developer".
- control tokens: text that spells one reaches the template as a placeholder; see
  server/text/chat_templates/control_text.py.

A template is a program that comes with a checkpoint. Jinja's sandbox denies it access to the machine, and a
TemplateRunner limits its time and memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import EngineStopped, InvalidRequest, ModelUnusable, StartupError, TextUnusable
from server.text.chat_templates.control_text import ControlTexts, HiddenTexts
from server.text.chat_templates.message_content import (
    TRIAL_PARTS,
    TRIAL_TEXT,
    ContentForm,
    append_text,
    detect_form,
    has_text,
    may_read_parts,
    to_form,
    trial_chat,
)
from server.text.chat_templates.runner import (
    TemplateInterrupted,
    TemplateOverrun,
    TemplateRefusal,
    TemplateRunner,
    TemplateStopped,
    TemplateUnreadable,
)

_FIELDS = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})  # of the request
_RESERVED = frozenset({"chat_template", "tokenize"})  # arguments of transformers' function
_GIVE_ANOTHER = "give another: --chat-template"


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A prompt for Tokenizer.encode_chat, with placeholders for clients' texts that spell control tokens.

    hidden: the texts that were replaced, by placeholder. user_end: if the model continues a user's message, the text by
    which the template ends it, the first control token if there is one, or "" if nothing follows; None if the model
    answers.
    """

    prompt: str
    hidden: Mapping[str, str]
    user_end: str | None = None

    @property
    def text(self) -> str:
        """Prompt with the original texts instead of placeholders."""
        text = self.prompt
        for placeholder, original in self.hidden.items():
            text = text.replace(placeholder, original)
        return text


class ChatTemplate:
    """A chat template. `render` may be called from any thread.

    Until `end_trial`, a rendering that exceeds its limits raises TextUnusable instead of InvalidRequest, since trial
    chats are short and a template that cannot render them is useless; StartupError if the cause may pass.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        control_texts: frozenset[str],
        runner: TemplateRunner,
    ) -> None:
        """special_tokens: texts of bos_token and others, by variable name. control_texts: texts of control tokens.

        Raises TextUnusable if `source` is not a Jinja template, and StartupError if it could not be read now.
        """
        try:
            self.facts = runner.inspect(source)
        except (TemplateUnreadable, TemplateOverrun) as error:
            raise _startup_error("be read", error) from error
        self._runner = runner
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._own_names = _RESERVED | self.facts.functions | special_tokens.keys()
        self._control_texts = ControlTexts(control_texts)
        self._knows_developer = "developer" in source
        self._forms: dict[str, ContentForm] = {}  # forms of content by role, determined when first needed
        self._is_on_trial = True

    def end_trial(self) -> None:
        """End the trial at startup: all later renderings are of clients' messages."""
        self._is_on_trial = False

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        """Return the prompt for `messages` (role, content and other fields that the template reads).

        continue_final_message: the prompt ends with the last message's text, which the model continues. If it is a
        user's, the result names what ends it. kwargs: the client's chat_template_kwargs. Raises InvalidRequest, also
        if the template refuses the messages.
        """
        self._check_kwargs(kwargs or {})
        if not messages:
            raise InvalidRequest("messages is empty; give at least one", param="messages")
        assert not (add_generation_prompt and continue_final_message), "an answer is opened or continued"
        hidden = HiddenTexts(self._control_texts)
        chat = [hidden.hide_message(self._plain_message(message, index)) for index, message in enumerate(messages)]
        end_mark = hidden.new_placeholder() + " "
        writes_user = continue_final_message and chat[-1]["role"] == "user"
        if continue_final_message:
            may_trim = has_text(chat[-1]["content"])  # without text, the blanks before the mark are the template's
            chat[-1]["content"] = append_text(chat[-1]["content"], end_mark)
        prompt = self._run(
            {
                **hidden.hide(dict(kwargs or {})),
                "messages": chat,
                "tools": None if tools is None else hidden.hide(list(tools)),
                # Some templates end a user's message only by the opening of the answer.
                "add_generation_prompt": add_generation_prompt or writes_user,
            }
        )
        user_end = None
        if continue_final_message:
            prompt, rest = _cut_after_final_message(prompt, end_mark, may_trim=may_trim)
            if writes_user:
                user_end = self._control_texts.first(rest) or next(iter(rest.strip().splitlines()), "")
        return RenderedChat(prompt, hidden.texts, user_end)

    def _check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise InvalidRequest if chat_template_kwargs would override a variable that the server sets."""
        for name in kwargs:
            if name in _FIELDS:
                reason = "use the request's field with that name"
            elif name in self._own_names:
                reason = "the server sets it, or it is not a variable of templates; leave it out"
            else:
                continue
            param = f"chat_template_kwargs.{name}"
            raise InvalidRequest(f"{param} cannot be set; {reason}", param=param)

    def _plain_message(self, message: Mapping[str, Any], index: int) -> dict[str, Any]:
        is_system = message["role"] == "developer" and not self._knows_developer
        role = "system" if is_system else message["role"]
        return {**message, "role": role, "content": to_form(message.get("content"), index, self._form(role))}

    def _form(self, role: str) -> ContentForm:
        if role not in self._forms:
            self._forms[role] = self._try_forms(role) if may_read_parts(self.source) else ContentForm.TEXT
        return self._forms[role]

    def _try_forms(self, role: str) -> ContentForm:
        def trial(content: object) -> str | None:
            messages = trial_chat(role, content)
            try:
                return self._run({"messages": messages, "tools": None, "add_generation_prompt": True})
            except InvalidRequest:
                return None

        return detect_form(trial(TRIAL_PARTS), trial(TRIAL_TEXT))

    def _run(self, variables: dict[str, Any]) -> str:
        try:
            return self._runner.render(self.source, {**self._special_tokens, "documents": None, **variables})
        except TemplateRefusal as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", param="messages") from error
        except TemplateOverrun as error:
            if self._is_on_trial:
                raise _startup_error("render a short chat", error) from error
            if isinstance(error, TemplateStopped):
                raise EngineStopped(str(error)) from error
            raise InvalidRequest(
                f"the chat template cannot render these messages: {error}", param="messages"
            ) from error


def _startup_error(what: str, error: TemplateUnreadable | TemplateOverrun) -> StartupError:
    if isinstance(error, TemplateInterrupted):
        return StartupError(f"the chat template cannot {what} now: {error}; try again, or {_GIVE_ANOTHER}")
    return TextUnusable(f"the chat template cannot {what}: {error}; {_GIVE_ANOTHER}")


def load_chat_template(
    option: str | None,
    checkpoint_template: str | None,
    special_tokens: Mapping[str, str],
    control_texts: frozenset[str],
    runner: TemplateRunner,
) -> ChatTemplate | None:
    """Return the template of --chat-template (a file, or the text itself), else the checkpoint's, else None.

    Raises ModelUnusable if the file cannot be read or has no valid template, else StartupError if the cause may pass.
    """
    source = checkpoint_template if option is None else _template_source(option)
    return None if source is None else ChatTemplate(source, special_tokens, control_texts, runner)


def _template_source(option: str) -> str:
    if "{{" in option or "{%" in option:
        return option
    path = Path(option).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ModelUnusable(
            f"--chat-template {option!r} is not a template (which would have {{{{ or {{%) and cannot be read as a "
            f"file: {reason}; give another"
        ) from error


def _cut_after_final_message(prompt: str, end_mark: str, *, may_trim: bool) -> tuple[str, str]:
    """Return the prompt through the final message, and the text after it. may_trim: the message has a text, which the
    template may have trimmed."""
    mark = end_mark.rstrip()
    position = prompt.rfind(mark)
    if position < 0:
        raise InvalidRequest(
            "continue_final_message: the chat template drops the end of the last message, so it cannot be continued; "
            "leave this field out",
            param="continue_final_message",
        )
    continued, rest = prompt[:position], prompt[position + len(mark) :]
    # A template that trims the message removed the mark's space, and would have removed the message's trailing space.
    is_trimmed = may_trim and not prompt.startswith(end_mark, position)
    return continued.rstrip() if is_trimmed else continued, rest
