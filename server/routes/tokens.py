"""POST /tokenize and /detokenize, in vLLM's shapes."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.generation.prompts import chat_prompt, check_token_ids
from server.http.body import Context, json_body, read_body
from server.http.disconnect import until_disconnect
from server.http.models import asked_model, entered
from server.schemas.base import validate
from server.schemas.parameters import ignored_header, ignored_parameters, refuse_unknown
from server.schemas.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest
from server.served.model import ServedModel
from server.text.detokenizer import decode
from server.text_model import TextModel

router = APIRouter(tags=["Tokens"])


async def _check(_request: Request, body: DetokenizeRequest, model: ServedModel) -> None:
    _headers(body, model)


@router.post("/tokenize")
async def tokenize(request: Request, context: Context) -> Response:
    """Convert a text, or a conversation with the chat template, into token ids."""
    body = await read_body(request, _tokenize_body)
    model = context.models.find(body.model)
    headers = _headers(body, model)  # before a model is loaded for what is refused
    await entered(request, model)
    model.check_admission()
    text_model = await model.text_model()
    info = model.client.info
    if isinstance(body, TokenizeChatRequest):
        chat = chat_prompt(body, text_model, info, is_counted=True)
        ids = (await until_disconnect(chat, request.receive)).prompt.ids
    else:
        encode = partial(
            text_model.tokenizer.encode, body.prompt, add_special_tokens=body.add_special_tokens is not False
        )
        encoding = text_model.workers.run_unless_short(encode, size=len(body.prompt))
        ids = await until_disconnect(encoding, request.receive)

    def answer() -> bytes:
        names = [text_model.tokenizer.id_to_token(token_id) for token_id in ids] if body.return_token_strs else None
        tokens = {"count": len(ids), "max_model_len": info.max_model_len, "tokens": ids, "token_strs": names}
        return msgspec.json.encode(tokens)

    return await _json(request, text_model, answer, size=len(ids), headers=headers)


@router.post("/detokenize")
async def detokenize(
    request: Request,
    body: Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))],
    model: Annotated[ServedModel, Depends(asked_model(DetokenizeRequest, _check))],
) -> Response:
    """Convert token ids into text."""
    headers = _headers(body, model)
    model.check_admission()
    text_model = await model.text_model()
    check_token_ids(body.tokens, model.client.info.vocab_size, "tokens")

    def answer() -> bytes:
        return msgspec.json.encode({"prompt": decode(text_model.tokenizer, body.tokens, skip_special_tokens=False)})

    return await _json(request, text_model, answer, size=len(body.tokens), headers=headers)


def _tokenize_body(raw: dict[str, Any]) -> TokenizeChatRequest | TokenizeTextRequest:
    return validate(TokenizeChatRequest, raw) if "messages" in raw else validate(TokenizeTextRequest, raw)


async def _json(
    request: Request, text_model: TextModel, answer: Callable[[], bytes], *, size: int, headers: dict[str, str]
) -> Response:
    """A response of what `answer` makes of `size` tokens."""
    content = await until_disconnect(text_model.workers.run_unless_short(answer, size=size), request.receive)
    return Response(content, headers=headers, media_type="application/json")


def _headers(body: TokenizeTextRequest | TokenizeChatRequest | DetokenizeRequest, model: ServedModel) -> dict[str, str]:
    """Those of the answer, which list what is ignored. Raises InvalidRequest where it is refused."""
    is_strict = model.config.strict_parameters
    ignored = ignored_parameters(body.extra, strict=is_strict)
    if is_strict:
        refuse_unknown(body.passed_on)
    return ignored_header(ignored)
