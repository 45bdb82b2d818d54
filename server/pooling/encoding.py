"""RequestEncoder: tokenizes the inputs of a pooling request slice by slice, so that other requests get their turn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo, PoolingInfo, PoolingParams
from engine.protocol.pooling import MAX_TOKEN_VALUES
from server.chat.openai_fields import chat_of
from server.generation.params.prompts import chat_prompt, check_token_ids
from server.generation.params.truncation import Truncation
from server.generation.terms import RequestTerms
from server.pooling.prompts import prompt_text
from server.schemas.pooling import InputFields, PoolingFields
from server.text.input_encoder import Cut, EncodedInput, FirstText
from server.text_model import TextModel

T = TypeVar("T")

MAX_CHARACTERS = 1 << 20  # of one text: some tokenizers need a hundred times its size
MAX_TOKENS = 1 << 20  # of all inputs of a request together
_SLICE_TEXTS, _SLICE_CHARACTERS = 64, 1 << 16  # encoded in one call, of about 30 ms
_ORIGIN_OF_IDS = (
    ": the ids must come from this model's tokenizer (LangChain's OpenAIEmbeddings needs "
    "check_embedding_ctx_length=False), or send texts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedInputs:
    """Tokenized inputs of one request, all with the same params. paths: paths in the request, for errors."""

    items: Sequence[EncodedInput]
    paths: Sequence[str]
    params: PoolingParams
    terms: RequestTerms

    @property
    def num_tokens(self) -> int:
        return sum(len(each.ids) for each in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairNames:
    """Names of the request's fields for the first and second texts of pairs, and the token limit of second texts."""

    first: str
    second: str
    max_second_tokens: int | None = None


class RequestEncoder:
    """Tokenizes one request's inputs, and checks their lengths. Its methods raise InvalidRequest with the path of the
    input at fault. name: name of the request's field with the inputs."""

    def __init__(
        self, body: PoolingFields, text_model: TextModel, info: EngineInfo, *, values_per_token: int = 0
    ) -> None:
        """values_per_token: numbers that the response has for each input token; 0 if it has a fixed number."""
        assert info.pooling is not None
        self._text_model = text_model
        self._info = info
        self._pooling = info.pooling
        self._values_per_token = values_per_token
        self._cut = _requested_cut(body, info.pooling)

    async def inputs(self, body: InputFields, name: str) -> list[EncodedInput]:
        """Encode each input of the body, or else its messages, as one input."""
        if body.messages is not None:
            encoded_chat = await self._chat(body)
            self._check_size(len(encoded_chat.ids), 1, "messages")
            return [encoded_chat]
        inputs = body.input or []
        if isinstance(inputs[0], str):
            prompt = prompt_text(self._pooling, body.prompt_name, body.input_type)
            texts = [prompt + text for text in inputs if isinstance(text, str)]
            return await self.texts(texts, name, add_special_tokens=body.add_special_tokens is not False)
        for field in ("prompt_name", "input_type"):
            if getattr(body, field) is not None and self._pooling.prompts:
                raise InvalidRequest(
                    f"{field} puts a text in front, and the input is token ids; send texts", param=field
                )
        ids = [each for each in inputs if isinstance(each, list)]
        work = partial(_checked_ids, ids, self._info.vocab_size, self._cut, name)
        encoded = await self._text_model.workers.run_unless_short(work, size=sum(map(len, ids)))
        _check_lengths(encoded, self._pooling, paths_of(name, len(ids)))
        self._check_size(sum(len(each.ids) for each in encoded), len(ids), name)
        return encoded

    async def texts(
        self, texts: Sequence[str], name: str, *, add_special_tokens: bool = True, max_text_tokens: int | None = None
    ) -> list[EncodedInput]:
        """Encode each text as one input. max_text_tokens: tokens kept of each text, not counting special tokens."""
        paths = paths_of(name, len(texts))
        _check_characters(texts, paths)
        encoder, cut = self._text_model.inputs, self._cut
        _check_cut(cut, encoder.num_added(is_pair=False) if add_special_tokens else 0)
        encode = partial(encoder.texts, add_special_tokens=add_special_tokens, cut=cut, max_text_tokens=max_text_tokens)
        return await self._in_slices(encode, texts, list(map(len, texts)), paths)

    async def pairs(self, pairs: Sequence[tuple[str, str]], names: PairNames) -> list[EncodedInput]:
        """Encode each pair of texts as one input."""
        paths = paths_of(names.second, len(pairs))
        _check_characters([first for first, _ in pairs], [names.first] * len(pairs))
        _check_characters([second for _, second in pairs], paths)
        encoder, cut = self._text_model.inputs, self._cut
        _check_cut(cut, encoder.num_added(is_pair=True) + 1)
        known: dict[str, FirstText] = {}  # shared by all slices
        encode = partial(encoder.pairs, cut=cut, max_second_tokens=names.max_second_tokens, known=known)
        return await self._in_slices(encode, pairs, [len(first) + len(second) for first, second in pairs], paths)

    async def _chat(self, body: InputFields) -> EncodedInput:
        text_model, cut, fields = self._text_model, self._cut, body.chat
        if text_model.chat is None:
            raise InvalidRequest("this model has no chat template; send input in place of messages", param="messages")
        truncation = None if cut is None else Truncation(cut.max_tokens, cut.keeps_end)
        prompt = (await chat_prompt(chat_of(fields), fields, text_model, self._info, truncation=truncation)).prompt
        if truncation is not None:
            prompt = truncation.apply(prompt, text_model.tokenizer)
        encoded = EncodedInput(prompt.ids)
        _check_lengths([encoded], self._pooling, ["messages"])
        return encoded

    async def _in_slices(
        self,
        encode: Callable[[Sequence[T]], list[EncodedInput]],
        items: Sequence[T],
        sizes: Sequence[int],
        paths: Sequence[str],
    ) -> list[EncodedInput]:
        """Encode all items, slice by slice. Stops at the first item that is too long, and when canceled."""
        total = sum(sizes)
        encoded: list[EncodedInput] = []
        num_tokens = 0
        for start, end in _slices(sizes):
            work = partial(encode, items[start:end])
            part = await self._text_model.workers.run_unless_short(work, size=total)
            _check_lengths(part, self._pooling, paths[start:end])
            encoded += part
            num_tokens += sum(len(each.ids) for each in part)
            self._check_size(num_tokens, len(encoded), paths[0].partition("[")[0])
        return encoded

    def _check_size(self, num_tokens: int, num_inputs: int, name: str) -> None:
        """Raise InvalidRequest if the inputs so far have too many tokens, or too many numbers to return."""
        inputs = f"the first {num_inputs} inputs have" if num_inputs > 1 else f"{name} has"
        if num_tokens > MAX_TOKENS:
            raise InvalidRequest(
                f"{inputs} {num_tokens} tokens; a request may have {MAX_TOKENS} in all its inputs; send several "
                "requests",
                param=name,
            )
        width = self._values_per_token
        if num_tokens * width > MAX_TOKEN_VALUES:
            raise InvalidRequest(
                f"{inputs} {num_tokens} tokens, for each of which token_embed returns {width} numbers; a request may "
                f"have {MAX_TOKEN_VALUES} numbers, which are {MAX_TOKEN_VALUES // width} tokens; send several "
                "requests, cut inputs with truncate_prompt_tokens, or use the task embed",
                param=name,
            )


def _requested_cut(body: PoolingFields, pooling: PoolingInfo) -> Cut | None:
    """Return the truncation that the request asks for; None if it asks for none, and longer inputs are refused."""
    if not body.is_truncated:
        return None
    limit = pooling.max_input_tokens
    wanted = body.truncate_prompt_tokens
    return Cut(limit if wanted in (None, -1) else min(wanted or limit, limit), body.keeps_end)


def _check_cut(cut: Cut | None, num_added: int) -> None:
    """Raise InvalidRequest if truncation would leave only the `num_added` special tokens."""
    if cut is not None and cut.max_tokens <= num_added:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {cut.max_tokens}, and {num_added} of an input's tokens are the model's special "
            f"ones; it must be at least {num_added + 1}",
            param="truncate_prompt_tokens",
        )


def _check_lengths(inputs: Sequence[EncodedInput], pooling: PoolingInfo, paths: Sequence[str]) -> None:
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


def _slices(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each slice of items. sizes: number of characters of each item."""
    start, size = 0, 0
    for number, each in enumerate(sizes):
        if number > start and (number - start >= _SLICE_TEXTS or size + each > _SLICE_CHARACTERS):
            yield start, number
            start, size = number, 0
        size += each
    if sizes:
        yield start, len(sizes)


def paths_of(name: str, num_items: int) -> list[str]:
    """Return the paths of a field's items in the request: the field's name, with an index if there are several."""
    return [name] if num_items == 1 else [f"{name}[{number}]" for number in range(num_items)]


def _check_characters(texts: Sequence[str], paths: Sequence[str]) -> None:
    for text, path in zip(texts, paths, strict=True):
        if len(text) > MAX_CHARACTERS:
            raise InvalidRequest(
                f"{path} has {len(text)} characters; one text may have {MAX_CHARACTERS}; split it", param=path
            )


def _checked_ids(inputs: Sequence[list[int]], vocab_size: int, cut: Cut | None, name: str) -> list[EncodedInput]:
    """Check and truncate token ids. No special tokens are added, since the client has put them there."""
    encoded = []
    for ids, path in zip(inputs, paths_of(name, len(inputs)), strict=True):
        check_token_ids(ids, vocab_size, path, _ORIGIN_OF_IDS)
        if cut is not None and len(ids) > cut.max_tokens:
            ids = ids[-cut.max_tokens :] if cut.keeps_end else ids[: cut.max_tokens]
        encoded.append(EncodedInput(ids))
    return encoded
