"""Inputs of a pooling model as token ids, checked against the model, encoded slice by slice beside other requests."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo, PoolingInfo
from server.chat.openai_fields import chat_of
from server.generation.params.prompts import chat_prompt
from server.generation.params.truncation import Truncation
from server.pooling.limits import RequestLimits
from server.pooling.prompts import prompt_text
from server.schemas.base import quote
from server.schemas.pooling import InputFields, PoolingFields
from server.text.input_encoder import Cut, EncodedInput, FirstText
from server.text_model import TextModel

T = TypeVar("T")

MAX_CHARACTERS = 1 << 20  # of one text: some tokenizers need a hundred times its size
_ANY_OUTPUT = RequestLimits()
_SLICE_TEXTS, _SLICE_CHARACTERS = 64, 1 << 16  # encoded in one call, of about 30 ms


async def encoded_inputs(
    body: InputFields,
    text_model: TextModel,
    info: EngineInfo,
    pooling: PoolingInfo,
    limits: RequestLimits,
    *,
    name: str = "input",
) -> list[EncodedInput]:
    """Encode the inputs one by one, or the conversation. name: of the inputs in the request, for errors. Raises
    InvalidRequest."""
    cut = requested_cut(body, pooling)
    if body.messages is not None:
        encoded_chat = await _encoded_chat(body, text_model, info, pooling, cut)
        limits.check(len(encoded_chat.ids), 1, "messages")
        return [encoded_chat]
    inputs = body.input or []
    if isinstance(inputs[0], str):
        texts = [text for text in inputs if isinstance(text, str)]
        prompt = prompt_text(pooling, body.prompt_name, body.input_type)
        has_special = body.add_special_tokens is not False
        texts = [prompt + text for text in texts]
        return await encoded_texts(
            texts, text_model, pooling, cut, add_special_tokens=has_special, name=name, limits=limits
        )
    for field in ("prompt_name", "input_type"):
        if getattr(body, field) is not None and pooling.prompts:
            raise InvalidRequest(f"{field} puts a text in front, and the input is token ids; send texts", param=field)
    ids = [each for each in inputs if isinstance(each, list)]
    work = partial(_checked_ids, ids, info.vocab_size, cut, name)
    encoded = await text_model.workers.run_unless_short(work, size=sum(map(len, ids)))
    check_lengths(encoded, pooling, paths_of(name, len(ids)))
    limits.check(sum(len(each.ids) for each in encoded), len(ids), name)
    return encoded


async def encoded_texts(
    texts: Sequence[str],
    text_model: TextModel,
    pooling: PoolingInfo,
    cut: Cut | None,
    *,
    add_special_tokens: bool = True,
    name: str = "input",
    max_text_tokens: int | None = None,
    limits: RequestLimits = _ANY_OUTPUT,
) -> list[EncodedInput]:
    """Encode each text as one input.

    name: of the texts in the request, for errors. max_text_tokens: tokens that stay of each text, without special ones.
    Raises InvalidRequest.
    """
    paths = paths_of(name, len(texts))
    _check_characters(texts, paths)
    encoder = text_model.inputs
    check_cut(cut, encoder.num_added(is_pair=False) if add_special_tokens else 0)
    encode = partial(encoder.texts, add_special_tokens=add_special_tokens, cut=cut, max_text_tokens=max_text_tokens)
    return await _in_slices(encode, texts, list(map(len, texts)), text_model, pooling, paths, limits)


async def encoded_pairs(
    pairs: Sequence[tuple[str, str]],
    text_model: TextModel,
    pooling: PoolingInfo,
    cut: Cut | None,
    *,
    name: str,
    first_name: str,
    max_second_tokens: int | None = None,
) -> list[EncodedInput]:
    """Encode each pair as one input.

    name, first_name: of the second and the first texts in the request, for errors. Raises InvalidRequest.
    """
    paths = paths_of(name, len(pairs))
    _check_characters([first for first, _ in pairs], [first_name] * len(pairs))
    _check_characters([second for _, second in pairs], paths)
    encoder = text_model.inputs
    check_cut(cut, encoder.num_added(is_pair=True) + 1)
    known: dict[str, FirstText] = {}  # shared by all slices
    encode = partial(encoder.pairs, cut=cut, max_second_tokens=max_second_tokens, known=known)
    sizes = [len(first) + len(second) for first, second in pairs]
    return await _in_slices(encode, pairs, sizes, text_model, pooling, paths, _ANY_OUTPUT)


def requested_cut(body: PoolingFields, pooling: PoolingInfo) -> Cut | None:
    """Return the cut that the request asks for; None for inputs that are taken whole or refused."""
    if not body.is_truncated:
        return None
    limit = pooling.max_input_tokens
    wanted = body.truncate_prompt_tokens
    return Cut(limit if wanted in (None, -1) else min(wanted or limit, limit), body.keeps_end)


def check_cut(cut: Cut | None, num_added: int) -> None:
    """Raise InvalidRequest if nothing of a text would be left."""
    if cut is not None and cut.max_tokens <= num_added:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {cut.max_tokens}, and {num_added} of an input's tokens are the model's special "
            f"ones; it must be at least {num_added + 1}",
            param="truncate_prompt_tokens",
        )


def check_lengths(inputs: Sequence[EncodedInput], pooling: PoolingInfo, paths: Sequence[str]) -> None:
    """Raise ContextLengthExceeded for the first input that is too long, and InvalidRequest for one without tokens."""
    limit = pooling.max_input_tokens
    for encoded, path in zip(inputs, paths, strict=True):
        if len(encoded.ids) > limit:
            raise ContextLengthExceeded(
                f"{path} has {len(encoded.ids)} tokens; this model takes {limit}; shorten it, split it, or have it cut "
                "with truncate_prompt_tokens: -1",
                param=path,
                num_tokens=len(encoded.ids),
                limit=limit,
            )
        if not encoded.ids:
            raise InvalidRequest(f"{path} has no tokens; it must have at least one", param=path)


async def _encoded_chat(
    body: InputFields, text_model: TextModel, info: EngineInfo, pooling: PoolingInfo, cut: Cut | None
) -> EncodedInput:
    if text_model.chat is None:
        raise InvalidRequest("this model has no chat template; send input in place of messages", param="messages")
    truncation = None if cut is None else Truncation(cut.max_tokens, cut.keeps_end)
    fields = body.chat
    prompt = (await chat_prompt(chat_of(fields), fields, text_model, info, truncation=truncation)).prompt
    if truncation is not None:
        prompt = truncation.apply(prompt, text_model.tokenizer)
    encoded = EncodedInput(prompt.ids)
    check_lengths([encoded], pooling, ["messages"])
    return encoded


async def _in_slices(
    encode: Callable[[Sequence[T]], list[EncodedInput]],
    items: Sequence[T],
    sizes: Sequence[int],
    text_model: TextModel,
    pooling: PoolingInfo,
    paths: Sequence[str],
    limits: RequestLimits,
) -> list[EncodedInput]:
    """Encode all items, one slice at a time.

    If the client disconnects, at most one slice is encoded in vain. No slice follows the first item that is too long.
    """
    total = sum(sizes)
    encoded: list[EncodedInput] = []
    num_tokens = 0
    for start, end in _slices(sizes):
        work = partial(encode, items[start:end])
        part = await text_model.workers.run_unless_short(work, size=total)
        check_lengths(part, pooling, paths[start:end])
        encoded += part
        num_tokens += sum(len(each.ids) for each in part)
        limits.check(num_tokens, len(encoded), paths[0].partition("[")[0])
    return encoded


def _slices(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each slice."""
    start, size = 0, 0
    for number, each in enumerate(sizes):
        if number > start and (number - start >= _SLICE_TEXTS or size + each > _SLICE_CHARACTERS):
            yield start, number
            start, size = number, 0
        size += each
    if sizes:
        yield start, len(sizes)


def paths_of(name: str, num_items: int) -> list[str]:
    """Return the paths of the items in the request."""
    return [name] if num_items == 1 else [f"{name}[{number}]" for number in range(num_items)]


def _check_characters(texts: Sequence[str], paths: Sequence[str]) -> None:
    for text, path in zip(texts, paths, strict=True):
        if len(text) > MAX_CHARACTERS:
            raise InvalidRequest(
                f"{path} has {len(text)} characters; one text may have {MAX_CHARACTERS}; split it", param=path
            )


def _checked_ids(inputs: Sequence[list[int]], vocab_size: int, cut: Cut | None, name: str) -> list[EncodedInput]:
    """Check token ids. They stay as they are: the client has put the special tokens there."""
    encoded = []
    for ids, path in zip(inputs, paths_of(name, len(inputs)), strict=True):
        if not (min(ids) >= 0 and max(ids) < vocab_size):
            wrong = next(token_id for token_id in ids if not 0 <= token_id < vocab_size)
            raise InvalidRequest(
                f"{path} has the token id {quote(wrong)}; it must be at least 0 and at most {vocab_size - 1}: the ids "
                "must come from this model's tokenizer (LangChain's OpenAIEmbeddings needs "
                "check_embedding_ctx_length=False), or send texts",
                param=path,
            )
        if cut is not None and len(ids) > cut.max_tokens:
            ids = ids[-cut.max_tokens :] if cut.keeps_end else ids[: cut.max_tokens]
        encoded.append(EncodedInput(ids))
    return encoded
