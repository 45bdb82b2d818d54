"""POST /tokenize and /detokenize, in vLLM's shapes."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from server.context import ServerContext
from server.generation.prompts import chat_prompt, check_token_ids
from server.http.body import Context, json_body, json_object
from server.schemas.base import validate
from server.schemas.parameters import ignored_header, ignored_parameters, refuse_unknown
from server.schemas.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest
from server.text.detokenizer import decode

router = APIRouter(tags=["Tokens"])


@router.post("/tokenize")
async def tokenize(request: Request, context: Context) -> JSONResponse:
    """Turn a text, or a conversation by the chat template, into token ids."""
    raw = await json_object(request)
    body: TokenizeChatRequest | TokenizeTextRequest
    body = validate(TokenizeChatRequest, raw) if "messages" in raw else validate(TokenizeTextRequest, raw)
    headers = _check(body, context)
    text_model = await context.text_model()
    info = context.client.info
    if isinstance(body, TokenizeChatRequest):
        ids = (await chat_prompt(body, text_model, info, is_counted=True)).prompt.ids
    else:
        ids = await text_model.tokenizer.encode_async(
            body.prompt, add_special_tokens=body.add_special_tokens is not False
        )
    names = [text_model.tokenizer.id_to_token(token_id) for token_id in ids] if body.return_token_strs else None
    answer = {"count": len(ids), "max_model_len": info.max_model_len, "tokens": ids, "token_strs": names}
    return JSONResponse(answer, headers=headers)


@router.post("/detokenize")
async def detokenize(
    context: Context, body: Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))]
) -> JSONResponse:
    """Turn token ids into text."""
    headers = _check(body, context)
    text_model = await context.text_model()
    check_token_ids(body.tokens, context.client.info.vocab_size, "tokens")
    prompt = await asyncio.to_thread(decode, text_model.tokenizer, body.tokens, skip_special_tokens=False)
    return JSONResponse({"prompt": prompt}, headers=headers)


def _check(
    body: TokenizeTextRequest | TokenizeChatRequest | DetokenizeRequest, context: ServerContext
) -> dict[str, str]:
    context.check_admission()
    context.check_model(body.model)
    is_strict = context.config.strict_parameters
    ignored = ignored_parameters(body.extra, strict=is_strict)
    if is_strict:
        refuse_unknown(body.passed_on)
    return ignored_header(ignored)
