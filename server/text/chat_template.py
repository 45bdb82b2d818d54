"""ChatTemplate: messages -> the prompt text that the model was trained on, by the checkpoint's Jinja template.

Templates see what they see in transformers: the same Jinja switches, functions and variables. Three things differ, all
on the side of what clients send:

- content: null becomes "", and text parts are joined by line breaks where the template takes only a text, see
  server/text/message_content.py.
- role "developer" becomes "system" unless the template's source mentions "developer".
- text that spells a control token reaches the template as a placeholder, see server/text/control_text.py.

A template is a program that comes with a checkpoint. Jinja's sandbox keeps it from the machine, and a TemplateRunner
bounds its time and memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest, StartupError
from server.text.control_text import ControlTexts, HiddenTexts
from server.text.message_content import (
    TRIAL_PARTS,
    TRIAL_TEXT,
    ContentForm,
    form_of,
    in_form,
    may_read_parts,
    trial_chat,
    with_end,
)
from server.text.template_runner import (
    TemplateFacts,
    TemplateOverrun,
    TemplateRefusal,
    TemplateRunner,
    TemplateUnreadable,
)

_FIELDS = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})  # of the request
_NOT_TAKEN = frozenset({"chat_template", "tokenize"})  # arguments of transformers' function
_GIVE_ANOTHER = "give another: --chat-template"


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A prompt in which `hidden` texts stand behind the placeholders that are its keys; for Tokenizer.encode_chat."""

    prompt: str
    hidden: Mapping[str, str]

    @property
    def text(self) -> str:
        """The prompt as people read it."""
        text = self.prompt
        for placeholder, original in self.hidden.items():
            text = text.replace(placeholder, original)
        return text


class ChatTemplate:
    """One template. `render` may be called from any thread.

    As long as it is on trial, a rendering that takes too much raises StartupError instead of InvalidRequest: trial
    chats are short, and a template that cannot make prompts of them is of no use.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        control_texts: frozenset[str],
        runner: TemplateRunner,
    ) -> None:
        """special_tokens: bos_token and so on, as templates name them. control_texts: texts of all control tokens.

        Raises StartupError if `source` is no Jinja template.
        """
        try:
            self._facts = runner.inspect(source)
        except TemplateUnreadable as error:
            raise StartupError(f"the chat template cannot be read, {error}; {_GIVE_ANOTHER}") from error
        except TemplateOverrun as error:
            raise StartupError(f"the chat template cannot be read: {error}; {_GIVE_ANOTHER}") from error
        self._runner = runner
        self._source = source
        self._special_tokens = dict(special_tokens)
        self._own_names = _NOT_TAKEN | self._facts.functions | special_tokens.keys()
        self._control_texts = ControlTexts(control_texts)
        self._knows_developer = "developer" in source
        self._forms: dict[str, ContentForm] = {}  # of content, by the message's role; found when first needed
        self._is_on_trial = True

    @property
    def facts(self) -> TemplateFacts:
        return self._facts

    def end_trial(self) -> None:
        """From now on renderings are of clients' messages."""
        self._is_on_trial = False

    @property
    def source(self) -> str:
        """The template's Jinja text."""
        return self._source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        """The prompt for `messages` (role, content and whatever else the template reads), which are left unchanged.

        continue_final_message: the prompt ends with the last message's text, for the model to go on with it. kwargs: a
        client's chat_template_kwargs. Raises InvalidRequest, also with what the template itself objects to.
        """
        self._check_kwargs(kwargs or {})
        _check_options(messages, add_generation_prompt, continue_final_message)
        hidden = HiddenTexts(self._control_texts)
        chat = [hidden.hide_message(self._plain_message(message, index)) for index, message in enumerate(messages)]
        end_mark = hidden.new_placeholder() + " "
        if continue_final_message:
            chat[-1]["content"] = with_end(chat[-1]["content"], end_mark)
        prompt = self._run(
            {
                **hidden.hide(dict(kwargs or {})),
                "messages": chat,
                "tools": None if tools is None else hidden.hide(list(tools)),
                "add_generation_prompt": add_generation_prompt,
            }
        )
        if continue_final_message:
            prompt = _cut_after_final_message(prompt, end_mark)
        return RenderedChat(prompt, hidden.texts)

    def _check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raise InvalidRequest where a client's variables would take the place of the template's own."""
        for name in kwargs:
            if name in _FIELDS:
                reason = "use the request's field of that name"
            elif name in self._own_names:
                reason = "the server sets it, or it is no variable of a template; leave it out"
            else:
                continue
            param = f"chat_template_kwargs.{name}"
            raise InvalidRequest(f"{param} cannot be set; {reason}", param=param)

    def _plain_message(self, message: Mapping[str, Any], index: int) -> dict[str, Any]:
        is_system = message["role"] == "developer" and not self._knows_developer
        role = "system" if is_system else message["role"]
        return {**message, "role": role, "content": in_form(message.get("content"), index, self._form(role))}

    def _form(self, role: str) -> ContentForm:
        """What content of messages of `role` must be."""
        if role not in self._forms:
            self._forms[role] = self._try_forms(role) if may_read_parts(self._source) else ContentForm.TEXT
        return self._forms[role]

    def _try_forms(self, role: str) -> ContentForm:
        def trial(content: object) -> str | None:
            messages = trial_chat(role, content)
            try:
                return self._run({"messages": messages, "tools": None, "add_generation_prompt": True})
            except InvalidRequest:
                return None

        return form_of(trial(TRIAL_PARTS), trial(TRIAL_TEXT))

    def _run(self, variables: dict[str, Any]) -> str:
        try:
            return self._runner.render(self._source, {**self._special_tokens, "documents": None, **variables})
        except TemplateRefusal as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", param="messages") from error
        except TemplateOverrun as error:
            if self._is_on_trial:
                raise StartupError(
                    f"the chat template makes no prompt of a short chat: {error}; {_GIVE_ANOTHER}"
                ) from error
            raise InvalidRequest(
                f"the chat template makes no prompt of these messages: {error}", param="messages"
            ) from error


def load_chat_template(
    option: str | None,
    checkpoint_template: str | None,
    special_tokens: Mapping[str, str],
    control_texts: frozenset[str],
    runner: TemplateRunner,
) -> ChatTemplate | None:
    """The template that --chat-template names (a file, or the text itself), else the checkpoint's, else None.

    Raises StartupError if the file cannot be read or holds no template.
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
        raise StartupError(
            f"--chat-template {option!r} is not a template ({{{{ or {{% is in all of them) and cannot be read as a "
            f"file: {reason}; give another"
        ) from error


def _check_options(
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> None:
    if not messages:
        raise InvalidRequest("messages is empty; give at least one", param="messages")
    if add_generation_prompt and continue_final_message:
        raise InvalidRequest(
            "continue_final_message continues the last message and add_generation_prompt begins a new one; "
            "set one of them to false",
            param="continue_final_message",
        )


def _cut_after_final_message(prompt: str, end_mark: str) -> str:
    mark = end_mark.rstrip()
    position = prompt.rfind(mark)
    if position < 0:
        raise InvalidRequest(
            "continue_final_message: the chat template leaves out the end of the last message, so it cannot be "
            "continued; send it without this field",
            param="continue_final_message",
        )
    continued = prompt[:position]
    # A template that trims the message took the mark's space, and would have taken the message's own trailing ones.
    return continued if prompt.startswith(end_mark, position) else continued.rstrip()
