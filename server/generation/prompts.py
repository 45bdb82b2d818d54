"""What a client sends as its prompt -> token ids, checked against the model."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo
from server.generation.answer_plan import AnswerPlan, plan_answer
from server.generation.chat_messages import plain_messages
from server.generation.chat_tools import chat_tools
from server.generation.choice import Prompt
from server.generation.truncation import Truncation
from server.reasoning.effort import ReasoningEffort
from server.schemas.base import quote
from server.schemas.chat import ChatTemplateFields, Message
from server.structured_outputs.request import constraint_of
from server.text.chat_template import RenderedChat
from server.text.detokenizer import decode
from server.text.json_size import json_size
from server.text.token_bound import TooManyTokens
from server.text.tokenizer import Tokenizer
from server.text.workers import ITEM_SIZE
from server.text_model import ChatModel, TextModel
from server.tools.history import GENERIC, template_chat


async def text_prompts(
    prompts: list[str] | list[list[int]],
    text_model: TextModel,
    info: EngineInfo,
    *,
    add_special_tokens: bool,
    echo: bool,
    truncation: Truncation | None = None,
) -> list[Prompt]:
    """The prompts of a text completion. Raises InvalidRequest, and ContextLengthExceeded for one far too long."""
    tokenizer = text_model.tokenizer

    def encode(prompt: str | list[int]) -> Prompt:
        if isinstance(prompt, str):
            if truncation is not None and truncation.keeps_end:
                ids = tokenizer.encode_end(prompt, truncation.max_tokens + 1, add_special_tokens=add_special_tokens)
            elif truncation is not None:
                ids = tokenizer.encode_start(prompt, truncation.max_tokens + 1, add_special_tokens=add_special_tokens)
            else:
                with refusing_long_prompts(info.max_model_len, "prompt"):
                    ids = tokenizer.encode(prompt, add_special_tokens=add_special_tokens, at_most=info.max_model_len)
            encoded = Prompt(ids, prompt)
        else:
            check_token_ids(prompt, info.vocab_size, "prompt")
            # One that is too long will be refused; it is not worth decoding.
            has_text = echo and len(prompt) <= info.max_model_len
            encoded = Prompt(prompt, decode(tokenizer, prompt) if has_text else "")
        if not encoded.ids:
            raise InvalidRequest("prompt is empty; it must have at least one token", param="prompt")
        return encoded if truncation is None else truncation.apply(encoded, tokenizer, echo=echo)

    size = sum(map(len, prompts))
    return await text_model.workers.run_unless_short(lambda: [encode(prompt) for prompt in prompts], size=size)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A chat's prompt, and what there is to its answer beside text."""

    prompt: Prompt
    plan: AnswerPlan
    is_generic: bool  # the template shows no tools, so the prompt says in our words what the model can call


async def chat_prompt(
    fields: ChatTemplateFields,
    text_model: TextModel,
    info: EngineInfo,
    *,
    constraint_fields: Mapping[str, Any] | None = None,
    thinking_budget: int | None = None,
    truncation: Truncation | None = None,
    is_counted: bool = False,
) -> ChatPrompt:
    """The prompt that the chat template makes of messages, with its answer's plan.

    constraint_fields: that `constraint_of` reads. is_counted: the prompt may be longer than the context. Raises
    InvalidRequest, and ContextLengthExceeded for a prompt that is far too long.
    """
    chat = text_model.chat
    if chat is None:
        raise InvalidRequest(
            "this model has no chat template; use /v1/completions, or start the server with --chat-template",
            param="messages",
        )
    opens_answer = fields.opens_answer
    tokenizer = text_model.tokenizer

    def prepare() -> ChatPrompt:
        constraint = constraint_of(constraint_fields or {})
        tools = chat_tools(fields)
        messages = plain_messages(fields.messages, chat)
        definitions = [] if tools is None else tools.definitions
        written = template_chat(chat.tool_format, messages, definitions, has_system_role=chat.has_system_role)
        effort, ignored = _effort(fields, chat)
        rendered = chat.template.render(
            written.messages,
            tools=written.tools,
            add_generation_prompt=opens_answer,
            continue_final_message=bool(fields.continue_final_message),
            kwargs={**effort, **(fields.chat_template_kwargs or {})},
        )
        at_most = None if is_counted or truncation is not None else info.max_model_len
        with refusing_long_prompts(info.max_model_len, "messages"):
            ids = _chat_ids(rendered, tokenizer, truncation, at_most=at_most)
        plan = plan_answer(
            rendered.prompt,
            chat,
            tokenizer,
            constraint=constraint,
            tools=tools,
            thinking_budget=thinking_budget,
        )
        plan.ignored.extend(ignored)
        is_generic = tools is not None and chat.tool_format.name == GENERIC.name
        return ChatPrompt(Prompt(_with_bos(ids, info) if fields.add_special_tokens else ids, ""), plan, is_generic)

    size = _size(fields.messages) + json_size(constraint_fields or {}, *_schemas(fields))
    prepared = await text_model.workers.run(prepare, size=size)  # a template may use all its time
    if not prepared.prompt.ids:
        raise InvalidRequest("the chat template makes an empty prompt of these messages", param="messages")
    return prepared


def _chat_ids(
    rendered: RenderedChat, tokenizer: Tokenizer, truncation: Truncation | None, *, at_most: int | None
) -> list[int]:
    """All of them, or of a prompt that is cut the end that stays, and one more. Raises TooManyTokens beyond at_most."""
    if truncation is not None and truncation.keeps_end and not rendered.hidden:
        return tokenizer.encode_end(rendered.prompt, truncation.max_tokens + 1, add_special_tokens=False)
    return tokenizer.encode_chat(rendered.prompt, rendered.hidden, at_most=at_most)


def _size(messages: Sequence[Message]) -> int:
    """Roughly how many characters they have."""
    return sum(len(part.text) for message in messages for part in message.content or []) + ITEM_SIZE * len(messages)


def _schemas(fields: ChatTemplateFields) -> list[Any]:
    """Those of the arguments of all tools."""
    functions = [*(tool.function for tool in fields.tools or []), *(fields.functions or [])]
    return [function.parameters for function in functions]


def _effort(fields: ChatTemplateFields, chat: ChatModel) -> tuple[Mapping[str, Any], list[str]]:
    """What the template is given for reasoning_effort, and the field's name if it cannot be honored."""
    if fields.reasoning_effort is None:
        return {}, []
    effort = chat.effort.kwargs(ReasoningEffort(fields.reasoning_effort))
    return effort.kwargs, [] if effort.is_honored else ["reasoning_effort"]


def _with_bos(ids: list[int], info: EngineInfo) -> list[int]:
    bos = info.tokenizer.bos_token_id
    return ids if bos is None or not info.tokenizer.add_bos_token or ids[:1] == [bos] else [bos, *ids]


def check_token_ids(ids: list[int], vocab_size: int, param: str) -> None:
    """Raise InvalidRequest unless all ids lie within the width of the model's output layer."""
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(token_id for token_id in ids if not 0 <= token_id < vocab_size)
        raise InvalidRequest(
            f"{param} has the token id {quote(wrong)}; it must be at least 0 and at most {vocab_size - 1}", param=param
        )


@contextlib.contextmanager
def refusing_long_prompts(max_model_len: int, param: str) -> Iterator[None]:
    """Within it, a prompt that need not be tokenized to be too long raises ContextLengthExceeded of `param`."""
    try:
        yield
    except TooManyTokens as error:
        raise _too_long(error.num_tokens, max_model_len, param, is_at_least=True) from None


def _too_long(num_tokens: int, limit: int, param: str, *, is_at_least: bool = False) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"the prompt has {'at least ' if is_at_least else ''}{num_tokens} tokens; this server takes {limit} tokens of "
        "prompt and output together, at least one of them output; shorten the prompt",
        param=param,
        num_tokens=num_tokens,
        limit=limit,
        is_at_least=is_at_least,
    )


def room_for_output(
    prompts: list[Prompt],
    max_model_len: int,
    *,
    requested: int | None,
    param: str,
    default: int | None,
    prompt_param: str,
) -> int:
    """max_tokens: what the field `param` requests, else what fits, up to `default`.

    Raises ContextLengthExceeded, of `prompt_param` where the prompt leaves no room for a single token.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    room = max_model_len - longest
    if room < (1 if requested is None else min(requested, 1)):
        raise _too_long(longest, max_model_len, prompt_param)
    if requested is not None and requested > room:
        raise ContextLengthExceeded(
            f"the prompt has {longest} tokens and {param} is {quote(requested)}, more than the {room} that are left: "
            f"this server takes {max_model_len} tokens of prompt and output together; shorten the prompt or ask for "
            "fewer tokens",
            param=param,
        )
    if requested is not None:
        return requested
    return room if default is None else min(default, room)
