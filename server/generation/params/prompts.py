"""Prompts: turns the client's text, token ids or messages into token ids, checked against the model's limits."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo
from server.chat.rendering import RenderedPrompt, render_chat
from server.chat.request import Chat
from server.generation.choice import Prompt
from server.generation.params.truncation import Truncation
from server.keys.caller import current_caller
from server.schemas.base import quote
from server.schemas.chat import TemplateOptions
from server.text.detokenizer import decode
from server.text.token_bound import TooManyTokens
from server.text.tokenizer import Tokenizer
from server.text.workers import ITEM_SIZE, json_size
from server.text_model import ChatModel, TextModel


async def text_prompts(
    prompts: list[str] | list[list[int]],
    text_model: TextModel,
    info: EngineInfo,
    *,
    add_special_tokens: bool,
    echo: bool,
    truncation: Truncation | None,
) -> list[Prompt]:
    """Tokenize the prompts of a text completion. Raises InvalidRequest for an empty prompt or an unknown token id, and
    ContextLengthExceeded."""
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
            # A prompt that is too long will be refused, so it is not decoded.
            has_text = echo and len(prompt) <= info.max_model_len
            encoded = Prompt(prompt, decode(tokenizer, prompt) if has_text else "")
        if not encoded.ids:
            raise InvalidRequest("prompt is empty; it must have at least one token", param="prompt")
        return encoded if truncation is None else truncation.apply(encoded, tokenizer, echo=echo)

    size = sum(map(len, prompts))
    return await text_model.workers.run_unless_short(lambda: [encode(prompt) for prompt in prompts], size=size)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """The tokenized prompt of a chat, and the rendered text that it was made from."""

    prompt: Prompt
    source: RenderedPrompt


async def chat_prompt(
    chat: Chat,
    options: TemplateOptions,
    text_model: TextModel,
    info: EngineInfo,
    *,
    truncation: Truncation | None = None,
) -> ChatPrompt:
    """Return the rendered and tokenized prompt of a chat, whatever its length. Raises InvalidRequest."""
    model = chat_model(text_model)
    salt = current_caller().cache_salt("")
    work = partial(
        render_prompt, chat, options, model, text_model.tokenizer, info, truncation=truncation, cache_salt=salt
    )
    return await text_model.workers.run(work, size=chat_size(chat))


def chat_model(text_model: TextModel) -> ChatModel:
    """Return the model's ChatModel. Raises InvalidRequest if the model has no chat template."""
    if text_model.chat is None:
        raise InvalidRequest(
            "this model has no chat template; use /v1/completions, or start the server with --chat-template",
            param="messages",
        )
    return text_model.chat


def render_prompt(
    chat: Chat,
    options: TemplateOptions,
    model: ChatModel,
    tokenizer: Tokenizer,
    info: EngineInfo,
    *,
    truncation: Truncation | None = None,
    at_most: int | None = None,
    cache_salt: str,
) -> ChatPrompt:
    """Render and tokenize a chat on the calling thread. Token ids of known texts are shared by chats with the same
    `cache_salt`. Raises InvalidRequest if the chat cannot be rendered or the prompt is empty, and ContextLengthExceeded
    for a prompt that certainly has more than `at_most` tokens."""
    source = render_chat(chat, options, model)
    text, hidden = source.rendered.prompt, source.rendered.hidden
    if truncation is not None and truncation.keeps_end and not hidden:
        ids = tokenizer.encode_end(text, truncation.max_tokens + 1, add_special_tokens=False)  # one more than stay
    else:
        with refusing_long_prompts(info.max_model_len, "messages"):
            ids = tokenizer.encode_chat(text, hidden, at_most=at_most, cache_salt=cache_salt)
    bos = info.tokenizer.bos_token_id
    if options.add_special_tokens and info.tokenizer.add_bos_token and bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    if not ids:
        raise InvalidRequest("the chat template makes an empty prompt of these messages", param="messages")
    return ChatPrompt(Prompt(ids, ""), source)


def chat_size(chat: Chat) -> int:
    """Return the approximate number of characters in the chat's messages and tools."""
    parameters = [definition.parameters for definition in chat.tools.definitions]
    characters = sum(message.num_characters for message in chat.messages)
    return characters + ITEM_SIZE * len(chat.messages) + json_size(*parameters)


def check_token_ids(ids: list[int], vocab_size: int, param: str, remedy: str = "") -> None:
    """Raise InvalidRequest unless all ids are at least 0 and below the width of the model's output layer. remedy: text
    that ends the error's message, with its punctuation."""
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(token_id for token_id in ids if not 0 <= token_id < vocab_size)
        raise InvalidRequest(
            f"{param} has the token id {quote(wrong)}; it must be at least 0 and at most {vocab_size - 1}{remedy}",
            param=param,
        )


@contextlib.contextmanager
def refusing_long_prompts(max_model_len: int, param: str) -> Iterator[None]:
    """Turn TooManyTokens, raised inside the context, into ContextLengthExceeded for the field `param`."""
    try:
        yield
    except TooManyTokens as error:
        raise _too_long(error.num_tokens, max_model_len, param, is_at_least=True) from None


def _too_long(num_tokens: int, limit: int, param: str, *, is_at_least: bool = False) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"the prompt has {'at least ' if is_at_least else ''}{num_tokens} tokens; the model takes {limit} tokens of "
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
    param: str = "max_tokens",
    default: int | None = None,
    prompt_param: str,
) -> int:
    """Return the limit of output tokens: `requested`, or if None, what the longest prompt leaves of the context, at
    most `default`.

    Raises ContextLengthExceeded, which names the field `param` if `requested` is too large, and `prompt_param` if the
    prompt leaves no room for a single token.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    room = max_model_len - longest
    if room < (1 if requested is None else min(requested, 1)):
        raise _too_long(longest, max_model_len, prompt_param)
    if requested is not None and requested > room:
        raise ContextLengthExceeded(
            f"the prompt has {longest} tokens and {param} is {quote(requested)}, more than the {room} that are left: "
            f"the model takes {max_model_len} tokens of prompt and output together; shorten the prompt or ask for "
            "fewer tokens",
            param=param,
        )
    if requested is not None:
        return requested
    return room if default is None else min(default, room)
