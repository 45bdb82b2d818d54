"""POST /tokenize and /detokenize, in vLLM's format."""

from functools import partial
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from server.chat.openai_fields import chat_of
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import FinishedWork
from server.generation.params.prompts import chat_prompt, check_token_ids
from server.openapi.operation import JSON
from server.schemas.base import validate
from server.schemas.parameters import ignored_header, ignored_parameters, refuse_unknown
from server.schemas.plain_answers import Detokenized, Tokenized
from server.schemas.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest
from server.served.model import ServedModel
from server.text.detokenizer import decode

TokenizeRequest = TokenizeTextRequest | TokenizeChatRequest


def _tokenize_body(raw: dict[str, Any]) -> TokenizeRequest:
    if "messages" not in raw and "prompt" not in raw:
        raise InvalidRequest(
            "prompt and messages are missing; give a text in prompt, or a conversation in messages", param="prompt"
        )
    return validate(TokenizeChatRequest, raw) if "messages" in raw else validate(TokenizeTextRequest, raw)


async def _check(body: TokenizeRequest | DetokenizeRequest, request: EndpointRequest) -> None:
    _headers(body, request.model)


async def _prepare_tokenize(body: TokenizeRequest, request: EndpointRequest) -> FinishedWork:
    model = request.model
    headers = _headers(body, model)
    model.check_admission()
    text_model = await model.text_model()
    tokenizer, info = text_model.tokenizer, model.client.info
    if isinstance(body, TokenizeChatRequest):
        ids = (await chat_prompt(chat_of(body), body, text_model, info)).prompt.ids
    else:
        encode = partial(
            tokenizer.encode,
            body.prompt,
            add_special_tokens=body.add_special_tokens is not False,
            parse_special=body.parse_special is not False,
        )
        ids = await text_model.workers.run_unless_short(encode, size=len(body.prompt))

    def written() -> msgspec.Raw:
        names = [tokenizer.id_to_token(token_id) for token_id in ids] if body.return_token_strs else None
        answer = {"count": len(ids), "max_model_len": info.max_model_len, "tokens": ids, "token_strs": names}
        return msgspec.Raw(msgspec.json.encode(answer))

    return FinishedWork(await text_model.workers.run_unless_short(written, size=len(ids)), headers)


async def _prepare_detokenize(body: DetokenizeRequest, request: EndpointRequest) -> FinishedWork:
    model = request.model
    headers = _headers(body, model)
    model.check_admission()
    text_model = await model.text_model()
    check_token_ids(body.tokens, model.client.info.vocab_size, "tokens")
    text = partial(decode, text_model.tokenizer, body.tokens, skip_special_tokens=False)
    prompt = await text_model.workers.run_unless_short(text, size=len(body.tokens))
    return FinishedWork(Detokenized(prompt), headers)


def _headers(body: TokenizeRequest | DetokenizeRequest, model: ServedModel) -> dict[str, str]:
    """Return the header that lists ignored fields. Raises InvalidRequest if the server is configured to refuse them."""
    is_strict = model.config.strict_parameters
    ignored = ignored_parameters(body.extra, strict=is_strict)
    if is_strict:
        refuse_unknown(body.passed_on)
    return ignored_header(ignored)


TOKENIZE: Endpoint[TokenizeRequest] = Endpoint(
    path="/tokenize",
    name="tokenize",
    summary="Convert a text, or a conversation with the chat template, into token ids.",
    tag="Tokens",
    bodies=(TokenizeTextRequest, TokenizeChatRequest),
    capability=Capability.TOKENIZES,
    read=_tokenize_body,
    check=_check,
    prepare=_prepare_tokenize,
    answers={JSON: Tokenized},
    example={"prompt": "Hello, world"},
)
DETOKENIZE = Endpoint(
    path="/detokenize",
    name="detokenize",
    summary="Convert token ids into text.",
    tag="Tokens",
    bodies=(DetokenizeRequest,),
    capability=Capability.TOKENIZES,
    check=_check,
    prepare=_prepare_detokenize,
    answers={JSON: Detokenized},
    example={"tokens": [72, 105]},
)
ENDPOINTS = (TOKENIZE, DETOKENIZE)
